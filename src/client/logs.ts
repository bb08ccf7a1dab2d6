import { WarrenError } from "../contracts/errors.ts";
import type { LogChunk, LogEnd, LogEvent, LogOptions, LogStream } from "../contracts/logs.ts";
import { type Http, readEvents } from "./http.ts";

/** A sandbox's log over HTTP. Nothing is asked for until it is iterated. */
export function openLogs(http: Http, path: () => string, options: LogOptions): LogStream {
  let resolve: (end: LogEnd) => void = () => {};
  let reject: (error: unknown) => void = () => {};
  const end = new Promise<LogEnd>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  end.catch(() => {}); // iterating tells it too
  return {
    end,
    async *[Symbol.asyncIterator]() {
      try {
        resolve(yield* chunks(http, path(), options));
      } catch (error) {
        reject(error);
        throw error;
      } finally {
        resolve("end"); // of whoever has left before
      }
    },
  };
}

async function* chunks(
  http: Http,
  path: string,
  { tail, follow, until, stream, timeoutS, signal }: LogOptions,
): AsyncGenerator<LogChunk, LogEnd> {
  const query = { tail, follow, until, stream, timeout: timeoutS };
  const response = await http.send("GET", path, { query, signal });
  for await (const event of readEvents<LogEvent>(response.body)) {
    if ("end" in event) return event.end;
    yield { stream: event.stream, at: event.at, data: bytesOf(event) };
  }
  throw new WarrenError("engine_unavailable", `${http.where} broke the log off`);
}

function bytesOf(event: Exclude<LogEvent, { end: LogEnd }>): Uint8Array {
  if ("data" in event) return new TextEncoder().encode(event.data);
  return Uint8Array.from(atob(event.data_base64), (character) => character.charCodeAt(0));
}
