import type { IncomingHttpHeaders } from "node:http";

/** A request of a program inside. */
export interface Asked {
  path: string;
  query: URLSearchParams;
  headers: IncomingHttpHeaders;
}

export interface Answer {
  status: number;
  headers: Record<string, string>;
  body: string;
}

export function sayJson(status: number, value: unknown, headers: Record<string, string> = {}): Answer {
  return { status, headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(value) };
}

/** @param until RFC 3339; absent: they don't end, as far as anybody knows */
export function isOver(until: string | undefined, now: number): boolean {
  return until !== undefined && Date.parse(until) <= now;
}
