import type { ServerResponse } from "node:http";
import { constants, Http2ServerResponse, type ServerHttp2Stream } from "node:http2";
import type { Writable } from "node:stream";

/** The stream below a response over HTTP/2: Node's response object there lacks half of what a writable one tells. */
export function http2Stream(outgoing: ServerResponse): ServerHttp2Stream | undefined {
  const response: unknown = outgoing;
  return response instanceof Http2ServerResponse ? response.stream : undefined;
}

/** What carries a response's bytes, and knows whether it is closed or full. */
export function writableOf(outgoing: ServerResponse): Writable {
  return http2Stream(outgoing) ?? outgoing;
}

/** Ends a response so that nobody takes what was sent for the whole: the connection, or the HTTP/2 stream, breaks. */
export function breakOff(outgoing: ServerResponse): void {
  const stream = http2Stream(outgoing);
  if (stream) stream.close(constants.NGHTTP2_INTERNAL_ERROR);
  else outgoing.destroy();
}
