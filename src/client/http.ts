import { WarrenError } from "../contracts/errors.ts";
import { parseObject, readText, responseError, transportError } from "./failures.ts";
import type { RequestBody, Transport, TransportRequest, TransportResponse } from "./transport.ts";

/** Where all routes are below. */
export const PREFIX = "/api/v1";

export type Query = Record<string, string | number | boolean | undefined>;

export interface HttpCall {
  query?: Query;
  json?: unknown;
  body?: RequestBody;
  /** A status that is an answer, though it looks like a failure. */
  accept?: number;
  signal?: AbortSignal | undefined;
}

export interface Http {
  /** For messages: the server as the user named it. */
  readonly where: string;
  /** The JSON answer, taken at its word: the server is trusted, and zod would double the client's size. */
  json<T>(method: TransportRequest["method"], path: string, call?: HttpCall): Promise<T>;
  /** The answer as it comes. Failures of its body are `WarrenError`s too. */
  send(method: TransportRequest["method"], path: string, call?: HttpCall): Promise<TransportResponse>;
}

/** Calls of the REST API, with failures as `WarrenError`s. */
export function createHttp(transport: Transport, where: string, apiKey?: string, client?: string): Http {
  const auth: Record<string, string> = {
    ...(apiKey === undefined ? {} : { "x-api-key": apiKey }),
    ...(client === undefined ? {} : { "x-warren-client": client }),
  };

  async function request(
    method: TransportRequest["method"],
    path: string,
    { query, json, body, signal }: HttpCall,
  ): Promise<{ response: TransportResponse; source: Source }> {
    const source: Source = json === undefined ? observed(body) : { body: JSON.stringify(json) };
    const headers: Record<string, string> = { ...auth };
    if (json !== undefined) headers["content-type"] = "application/json";
    else if (body !== undefined) headers["content-type"] = "application/octet-stream";
    try {
      signal?.throwIfAborted();
      const response = await transport.request({
        method,
        path: PREFIX + path + queryString(query, path.includes("?") ? "&" : "?"),
        headers,
        ...(source.body === undefined ? {} : { body: source.body }),
        ...(signal ? { signal } : {}),
      });
      return { response, source };
    } catch (cause) {
      // The caller's own failure to give the bytes is told as it is.
      if (source.failure) throw source.failure.error;
      throw transportError(cause, where, signal);
    }
  }

  async function send(method: TransportRequest["method"], path: string, call: HttpCall = {}) {
    const { response, source } = await request(method, path, call);
    if (response.status >= 400 && response.status !== call.accept) throw await responseError(response);
    return { ...response, body: explained(response.body, where, source, call.signal) };
  }

  return {
    where,
    send,
    async json<T>(method: TransportRequest["method"], path: string, call: HttpCall = {}): Promise<T> {
      const response = await send(method, path, call);
      const text = await readText(response.body);
      if (response.status === 204) return undefined as T;
      try {
        return JSON.parse(text) as T;
      } catch (cause) {
        throw new WarrenError("engine_unavailable", `${where} did not answer with JSON`, {
          cause,
          hint: "check that the URL is that of a Warren server",
        });
      }
    },
  };
}

/** Server-sent events as `data` objects; an `error` event is thrown. */
export async function* readEvents<T>(body: AsyncIterable<Uint8Array>): AsyncGenerator<T> {
  const decoder = new TextDecoder();
  let pending = "";
  for await (const chunk of body) {
    pending += decoder.decode(chunk, { stream: true });
    const blocks = pending.split("\n\n");
    pending = blocks.pop() ?? "";
    for (const block of blocks) {
      const lines = block.split("\n");
      const data = lines.find((line) => line.startsWith("data: "))?.slice("data: ".length);
      if (data === undefined) continue;
      if (lines.includes("event: error")) throw await eventError(data);
      yield parseObject(data) as T;
    }
  }
}

function eventError(data: string): Promise<WarrenError> {
  const body = (async function* () {
    yield new TextEncoder().encode(data);
  })();
  return responseError({ status: 500, header: () => undefined, body });
}

interface Source {
  body: RequestBody | undefined;
  /** Why the bytes could not be had. */
  failure?: { error: unknown };
}

function observed(body: RequestBody | undefined): Source {
  if (body === undefined || typeof body === "string" || body instanceof Uint8Array) return { body };
  const source: Source = { body: watched() };
  async function* watched() {
    try {
      yield* body as AsyncIterable<Uint8Array>;
    } catch (error) {
      source.failure = { error };
      throw error;
    }
  }
  return source;
}

function explained(
  body: AsyncIterable<Uint8Array>,
  where: string,
  source: Source,
  signal: AbortSignal | undefined,
): AsyncIterable<Uint8Array> {
  return {
    // Not a generator: ending one that was never started would not reach the transfer.
    [Symbol.asyncIterator]() {
      const chunks = body[Symbol.asyncIterator]();
      return {
        async next() {
          try {
            return await chunks.next();
          } catch (cause) {
            // An answer may begin before all bytes are sent, and then end for want of them.
            if (source.failure) throw source.failure.error;
            throw transportError(cause, where, signal);
          }
        },
        async return() {
          await chunks.return?.();
          return { done: true, value: undefined };
        },
      };
    },
  };
}

function queryString(query: Query = {}, before: "?" | "&"): string {
  const pairs = Object.entries(query)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${encodeURIComponent(String(value))}`);
  return pairs.length === 0 ? "" : before + pairs.join("&");
}
