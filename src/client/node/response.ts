import type { IncomingMessage } from "node:http";
import type { TransportResponse } from "../transport.ts";

export function toResponse(response: IncomingMessage): TransportResponse {
  return {
    status: response.statusCode ?? 0,
    header: (name) => {
      const value = response.headers[name];
      return Array.isArray(value) ? value.join(", ") : value;
    },
    body: chunksOf(response),
  };
}

/** `return` closes the transfer even when nothing was read yet. */
function chunksOf(response: IncomingMessage): AsyncIterable<Uint8Array> {
  return {
    [Symbol.asyncIterator]() {
      const chunks: AsyncIterator<Uint8Array> = response[Symbol.asyncIterator]();
      return {
        next: () => chunks.next(),
        async return() {
          response.destroy();
          return { done: true, value: undefined };
        },
      };
    },
  };
}
