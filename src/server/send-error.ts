import type { IncomingMessage, ServerResponse } from "node:http";
import { errorBody, type WarrenError } from "../contracts/errors.ts";

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
  const isSending = hasBody(request) && !request.complete;
  const body = JSON.stringify(errorBody(error));
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
    ...(error.code === "unauthenticated" ? { "www-authenticate": "Bearer" } : {}),
    ...(isSending ? { connection: "close" } : {}),
  });
  if (!isSending) {
    response.end(body);
    return;
  }
  response.write(body);
  const end = () => {
    clearTimeout(timer);
    response.end();
  };
  const timer = setTimeout(end, DISCARD_MS);
  request.once("end", end);
  request.once("close", end);
  request.resume();
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
}
