import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createSecureServer as createHttp2Server, type ServerHttp2Session } from "node:http2";
import { createServer as createHttpsServer } from "node:https";
import type { Server, Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { TLSSocket, Server as TlsServer } from "node:tls";
import { WarrenError } from "../contracts/errors.ts";
import { answerRaw } from "./sockets.ts";

/** Certificate (with its chain) and private key, as PEM. */
export interface TlsIdentity {
  cert: string;
  key: string;
}

export interface ListenerOptions {
  /** How long a request's headers, or a TLS handshake, may take. */
  headersTimeoutMs: number;
  tls?: TlsIdentity | undefined;
  /** Speak HTTP/2 with TLS clients that offer it, beside HTTP/1.1. */
  http2?: boolean | undefined;
  onRequest(request: IncomingMessage, response: ServerResponse): void;
  onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
}

export interface Listener {
  readonly server: Server;
  /** New connections get this identity. @throws an error of Node when the two don't fit. */
  replaceIdentity(tls: TlsIdentity): void;
  /** Stops listening, gives requests that run a moment and cuts off the rest. Upgraded connections are not waited for. */
  close(): Promise<void>;
}

/** TLS 1.0 and 1.1 are deprecated (RFC 8996). */
const MIN_TLS = "TLSv1.2";

/** Longer than clients keep idle connections, so that it's they who close them and no request runs into a closing one. */
const KEEP_ALIVE_MS = 75_000;
/** After this long without a byte the kernel asks whether the peer is still there: one that has vanished says nothing. */
const PROBE_AFTER_MS = 30_000;
const MAX_CONNECTIONS = 4096;
/** Requests at one time on one HTTP/2 connection, and what it may send ahead of us, in bytes. */
const MAX_STREAMS = 256;
const STREAM_WINDOW_BYTES = 256 * 1024;
const SESSION_WINDOW_BYTES = 4 * 1024 * 1024;
/** How long running requests may take once the server closes. */
const CLOSE_GRACE_MS = 2_000;
const CLOSE_SWEEP_MS = 20;

/** An HTTP server that doesn't listen yet, and its connections. */
export function openListener(options: ListenerOptions): Listener {
  const { tls, onRequest, onUpgrade } = options;
  const server = makeServer(options);
  /** Connections that speak HTTP/1.1, and those among them on which a request runs. */
  const connections = new Set<Duplex>();
  const busy = new WeakSet<Duplex>();
  /** Connections that speak HTTP/2, and how many requests run on each. */
  const sessions = new Map<ServerHttp2Session, () => number>();
  const handshakes = tls ? trackHandshakes(server) : new Map<string, Socket>();

  server.maxConnections = MAX_CONNECTIONS;
  server.on(tls ? "secureConnection" : "connection", (socket: Socket | TLSSocket) => {
    if ("alpnProtocol" in socket && socket.alpnProtocol === "h2") return;
    connections.add(socket);
    socket.once("close", () => connections.delete(socket));
  });
  server.on("session", (session: ServerHttp2Session) => {
    const streams = countStreams(session);
    sessions.set(session, streams);
    session.once("close", () => sessions.delete(session));
    session.setLocalWindowSize(SESSION_WINDOW_BYTES);
    endWhenIdle(session, streams);
  });
  server.on("request", (request: IncomingMessage, response: ServerResponse) => {
    // Over HTTP/2 a stream that breaks is told here as well, and unheard it would end the process.
    request.on("error", () => undefined);
    if (request.httpVersionMajor === 1) {
      const { socket } = request;
      busy.add(socket);
      response.once("close", () => busy.delete(socket));
    }
    onRequest(request, response);
  });
  server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    connections.delete(socket);
    onUpgrade(request, socket, head);
  });
  server.on("clientError", (error: NodeJS.ErrnoException, socket: Duplex) => {
    // An answer that is under way must not get another one mixed into it; without TLS there is no way to answer.
    if (busy.has(socket) || (tls && !connections.has(socket))) socket.destroy();
    else answerRaw(socket, parserError(error));
  });

  return {
    server,
    replaceIdentity(identity) {
      if (tls) (server as TlsServer).setSecureContext({ ...identity, minVersion: MIN_TLS });
    },
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const session of sessions.keys()) session.close();
      const giveUpAt = performance.now() + CLOSE_GRACE_MS;
      const sweep = setInterval(() => {
        const all = performance.now() > giveUpAt;
        for (const socket of handshakes.values()) socket.destroy();
        for (const socket of connections) if (all || !busy.has(socket)) socket.destroy();
        for (const [session, streams] of sessions) if (all || streams() === 0) session.destroy();
      }, CLOSE_SWEEP_MS);
      await closed;
      clearInterval(sweep);
    },
  };
}

function makeServer({ tls, http2, headersTimeoutMs }: ListenerOptions): Server {
  const http1 = {
    headersTimeout: headersTimeoutMs,
    // Long uploads and long commands are legitimate; bodies have time limits of their own.
    requestTimeout: 0,
    connectionsCheckingInterval: headersTimeoutMs / 3,
    keepAliveTimeout: KEEP_ALIVE_MS,
  };
  const tcp = { keepAlive: true, keepAliveInitialDelay: PROBE_AFTER_MS, noDelay: true };
  if (!tls) return createHttpServer({ ...http1, ...tcp });
  const secure = { ...tls, minVersion: MIN_TLS, handshakeTimeout: headersTimeoutMs } as const;
  if (!http2) return createHttpsServer({ ...http1, ...tcp, ...secure });
  const server = createHttp2Server({
    ...tcp,
    ...secure,
    allowHTTP1: true,
    settings: { maxConcurrentStreams: MAX_STREAMS, initialWindowSize: STREAM_WINDOW_BYTES },
  });
  // This server reads its limits for HTTP/1.1 from properties alone, when it begins to listen.
  return Object.assign(server, http1);
}

/** Connections of a TLS server whose handshake has not ended. They are told apart by the peer's address and port. */
function trackHandshakes(server: Server): Map<string, Socket> {
  const handshakes = new Map<string, Socket>();
  const peer = ({ remoteAddress, remotePort }: Socket) => `${remoteAddress} ${remotePort}`;
  server.on("connection", (socket: Socket) => {
    const key = peer(socket);
    handshakes.set(key, socket);
    socket.once("close", () => {
      if (handshakes.get(key) === socket) handshakes.delete(key);
    });
  });
  server.on("secureConnection", (socket: TLSSocket) => handshakes.delete(peer(socket)));
  return handshakes;
}

function countStreams(session: ServerHttp2Session): () => number {
  let count = 0;
  session.on("stream", (stream) => {
    count++;
    stream.once("close", () => {
      count--;
    });
  });
  return () => count;
}

function endWhenIdle(session: ServerHttp2Session, streams: () => number): void {
  const wait = () =>
    session.setTimeout(KEEP_ALIVE_MS, () => {
      // A long command says nothing for as long as it runs.
      if (streams() > 0) wait();
      else session.close();
    });
  wait();
}

function parserError(error: NodeJS.ErrnoException): WarrenError {
  if (error.code === "HPE_HEADER_OVERFLOW") return new WarrenError("too_large", "the headers are too large");
  if (error.code === "ERR_HTTP_REQUEST_TIMEOUT") {
    return new WarrenError("cancelled", "the request's headers took too long");
  }
  return new WarrenError("invalid_request", "this is not a valid HTTP request");
}
