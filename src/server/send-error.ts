import type { IncomingMessage, ServerResponse } from "node:http";
import { constants } from "node:http2";
import { errorBody, type WarrenError } from "../contracts/errors.ts";
import { http2Stream } from "./outgoing.ts";

/** How long what a refused client still sends is read and thrown away. */
const DISCARD_MS = 1_000;

/**
 * Sends an error. Where the client is still sending its body, the connection ends with this answer, but not at once:
 * closing on unread bytes would reset it, and the client could lose the answer.
 */
export function sendError(
  request: IncomingMessage,
  response: ServerResponse,
  error: WarrenError,
  status = error.status,
): void {
  const stream = http2Stream(response);
  const isSending = stillSending(request, response);
  const body = JSON.stringify(errorBody(error));
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
    ...(error.code === "unauthenticated" ? { "www-authenticate": "Bearer" } : {}),
    ...(isSending && !stream ? { connection: "close" } : {}),
  });
  if (!isSending) {
    response.end(body);
    return;
  }
  // Over HTTP/2 the answer can be whole while the request is not; then only this request ends, not the connection.
  if (stream) response.end(body);
  else response.write(body);
  void discardBody(request, response).then(() => {
    if (!stream) response.end();
  });
}

/** Reads what the client still sends of its body, for a moment, and throws it away. */
export function discardBody(request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (!stillSending(request, response)) return Promise.resolve();
  const stream = http2Stream(response);
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(() => {
      stream?.close(constants.NGHTTP2_NO_ERROR);
      end();
    }, DISCARD_MS);
    request.once("end", end);
    request.once("close", end);
    request.resume();
  });
}

function stillSending(request: IncomingMessage, response: ServerResponse): boolean {
  const stream = http2Stream(response);
  return stream ? !stream.endAfterHeaders && !stream.readableEnded : hasBody(request) && !request.complete;
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
}
