import { Agent, type ClientRequest, type RequestOptions, request as requestHttp } from "node:http";
import { request as requestHttps, Agent as TlsAgent } from "node:https";
import { WarrenError } from "../../contracts/errors.ts";
import type { Transport, TransportRequest, TransportResponse } from "../transport.ts";
import { readCaFile } from "./ca-file.ts";
import { certificateError } from "./certificate-error.ts";
import { toResponse } from "./response.ts";
import { openNodeSocket } from "./socket.ts";
import { parseTarget, type Target, trust } from "./target.ts";

/** How long connecting may take. A machine that is off answers nothing at all. */
const CONNECT_MS = 10_000;

/** Shorter than servers keep idle connections, so that no request runs into one that is being closed. */
const IDLE_MS = 30_000;

/**
 * Over `node:http` with kept connections: http, https, and Unix sockets as `unix:/path/to/engine.sock`. Idle connections
 * do not keep the process alive.
 */
export function createNodeTransport(url: string, { caFile }: { caFile?: string } = {}): Transport {
  const parsed = parseTarget(url);
  const target = parsed.tls && caFile !== undefined ? { ...parsed, ca: readCaFile(caFile) } : parsed;
  const pooling = { keepAlive: true, maxSockets: Number.POSITIVE_INFINITY, timeout: IDLE_MS };
  // Made when it is first needed: a WebSocket over a Unix socket goes without node:http.
  let agent: Agent | undefined;
  const theAgent = () => {
    agent ??= target.tls ? new TlsAgent({ ...pooling, ...trust(target) }) : new Agent(pooling);
    return agent;
  };
  return {
    isLocal: "socketPath" in target.connection,
    request: (request) => explained(withRetry(request, () => send(target, theAgent(), request))),
    openSocket: (request) => explained(openNodeSocket(target, request, CONNECT_MS)),
  };
}

async function explained<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw certificateError(error) ?? error;
  }
}

/**
 * A server that restarts closes idle connections, and a request may run into that. Asking once more is safe where
 * nothing changes by it.
 */
async function withRetry(
  { method }: TransportRequest,
  attempt: () => Promise<TransportResponse>,
): Promise<TransportResponse> {
  try {
    return await attempt();
  } catch (error) {
    if (method === "GET" && error instanceof StaleConnection) return await attempt();
    throw error instanceof StaleConnection ? error.cause : error;
  }
}

class StaleConnection extends Error {}

function send(target: Target, agent: Agent, call: TransportRequest): Promise<TransportResponse> {
  const { method, path, headers, body, signal } = call;
  const options: RequestOptions = {
    ...target.connection,
    agent,
    // Node would look whether the host is an address, with an expression that takes milliseconds to compile.
    ...(target.tls ? {} : { servername: "" }),
    method,
    path: target.basePath + path,
    headers: { ...headers, ...lengthOf(body) },
    ...(signal ? { signal } : {}),
  };
  return new Promise((resolve, reject) => {
    const request = (target.tls ? requestHttps : requestHttp)(options);
    limitConnecting(request);
    request.once("response", (response) => {
      // An answer that came before all was sent is a refusal: the server still waits for bytes that won't come.
      response.once("end", () => {
        if (!request.writableEnded) request.destroy();
      });
      resolve(toResponse(response));
    });
    request.on("error", (error: NodeJS.ErrnoException) => {
      const stale = request.reusedSocket && error.code === "ECONNRESET";
      reject(stale ? new StaleConnection("the kept connection was closed", { cause: error }) : error);
    });
    if (body === undefined || typeof body === "string" || body instanceof Uint8Array) request.end(body);
    else upload(request, body).catch((error) => request.destroy(error));
  });
}

/**
 * Sends the chunks as fast as the server takes them; stops when it has refused them without waiting for the rest. A success that
 * begins before all was sent, as a build's does, goes on while they are.
 */
async function upload(request: ClientRequest, body: AsyncIterable<Uint8Array>): Promise<void> {
  let refused = false;
  request.once("response", ({ statusCode = 0 }) => {
    refused = statusCode >= 400;
  });
  for await (const chunk of body) {
    if (refused || request.destroyed) return;
    if (!request.write(chunk)) await drained(request);
  }
  if (!refused) request.end();
}

function drained(request: ClientRequest): Promise<void> {
  if (request.destroyed || !request.writableNeedDrain) return Promise.resolve();
  return new Promise((resolve) => {
    const events = ["drain", "close", "response"] as const;
    const done = () => {
      for (const event of events) request.off(event, done);
      resolve();
    };
    for (const event of events) request.on(event, done);
  });
}

function limitConnecting(request: ClientRequest): void {
  request.on("socket", (socket) => {
    if (!socket.connecting) return;
    const timer = setTimeout(
      () => request.destroy(new WarrenError("engine_unavailable", "connecting took too long")),
      CONNECT_MS,
    );
    const done = () => clearTimeout(timer);
    socket.once("connect", done);
    socket.once("close", done);
  });
}

function lengthOf(body: TransportRequest["body"]): Record<string, number> {
  if (typeof body === "string") return { "content-length": Buffer.byteLength(body) };
  return body instanceof Uint8Array ? { "content-length": body.length } : {};
}
