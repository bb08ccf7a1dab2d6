import type { IncomingMessage } from "node:http";
import { hopByHop } from "../../lib/hop-by-hop.ts";
import type { Admitted } from "./guard.ts";

/** The server ends the connection after this answer. */
export function isLast({ headers, httpVersion }: IncomingMessage): boolean {
  return httpVersion === "1.0" || /\bclose\b/i.test(headers.connection ?? "");
}

/** Of an answer that ends a request (RFC 9110, 15). Codes beyond its classes are in use. */
export function isFinal(status: number): boolean {
  return status >= 200 && status <= 999;
}

export function reasonOf({ statusMessage = "" }: IncomingMessage): string {
  return harmless(statusMessage);
}

/** Without control characters, which Node's parser lets by in some places, and its writer throws at. */
export function harmless(text: string): string {
  return text.replace(/[^\t\x20-\x7e\x80-\xff]/g, "?");
}

export function isChunked(name = ""): boolean {
  return name.toLowerCase() === "transfer-encoding";
}

export function redacted({ redaction }: Admitted, text = ""): string {
  return redaction?.text(text) ?? text;
}

export function pairs(raw: readonly string[]): [string, string][] {
  return raw.flatMap((name, i) => (i % 2 === 0 ? [[name, raw[i + 1] ?? ""] as [string, string]] : []));
}

/** Names and values in turn, without those that are for the next hop only. */
export function endToEnd(raw: readonly string[], more: readonly string[] = []): string[] {
  const dropped = new Set([...hopByHop, ...more]);
  for (let i = 0; i < raw.length; i += 2) {
    if (raw[i]?.toLowerCase() !== "connection") continue;
    for (const name of (raw[i + 1] ?? "").split(",")) dropped.add(name.trim().toLowerCase());
  }
  // How a body ends is not for a sender's Connection field to take away.
  for (const kept of ["content-length", "transfer-encoding"]) dropped.delete(kept);
  return raw.filter((_text, i) => !dropped.has((raw[i - (i % 2)] ?? "").toLowerCase()));
}

export function headOf(
  incoming: IncomingMessage,
  rest: readonly string[],
  more: readonly string[],
  admitted: Admitted,
): string {
  const fields = [...rest.map((text) => redacted(admitted, text)), ...more].map(harmless);
  const lines = [`HTTP/1.1 ${incoming.statusCode} ${redacted(admitted, reasonOf(incoming))}`];
  for (let i = 0; i < fields.length; i += 2) lines.push(`${fields[i]}: ${fields[i + 1]}`);
  return `${lines.join("\r\n")}\r\n\r\n`;
}
