import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { createPatience } from "../patience.ts";
import type { Answer, Asked } from "./answer.ts";

const MAX_HEADER_BYTES = 16_384;
/** Until a program has sent a request. */
const HEAD_TIMEOUT_MS = 10_000;
const KEEP_ALIVE_MS = 60_000;

/** An HTTP server without bodies: it is asked by GET, and answers at once. Node's parser, in its strict mode, says what a request is. */
export function createEndpoint(answer: (asked: Asked) => Answer) {
  const patience = createPatience(KEEP_ALIVE_MS);
  const server = createServer(
    {
      maxHeaderSize: MAX_HEADER_BYTES,
      insecureHTTPParser: false,
      requireHostHeader: true,
      keepAliveTimeout: KEEP_ALIVE_MS,
    },
    (request, response) => {
      patience.onRequest(request.socket, response);
      respond(request, response, answer);
    },
  );
  // Whoever has said all, and closed its half, is still owed its answer. Node's types don't know of it.
  Object.assign(server, { httpAllowHalfOpen: true });
  return {
    async serve(program: Duplex): Promise<void> {
      patience.begin(program, HEAD_TIMEOUT_MS);
      server.emit("connection", program);
      await once(program, "close");
    },
  };
}

function respond(request: IncomingMessage, response: ServerResponse, answer: (asked: Asked) => Answer): void {
  const hasBody =
    request.headers["content-length"] !== undefined || request.headers["transfer-encoding"] !== undefined;
  if ((request.method !== "GET" && request.method !== "HEAD") || hasBody) {
    // What else it says is not read.
    response.writeHead(405, { allow: "GET, HEAD", connection: "close", "content-length": 0 }).end();
    return;
  }
  const url = URL.canParse(request.url ?? "", "http://endpoint")
    ? new URL(request.url ?? "", "http://endpoint")
    : undefined;
  const { status, headers, body } = url
    ? answer({ path: url.pathname, query: url.searchParams, headers: request.headers })
    : { status: 400, headers: {}, body: "" };
  response.writeHead(status, {
    ...headers,
    "cache-control": "no-store",
    "content-length": Buffer.byteLength(body),
  });
  response.end(request.method === "HEAD" ? undefined : body);
}
