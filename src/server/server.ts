import {
  createServer as createHttpServer,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from "node:http";
import type { Duplex } from "node:stream";
import { getRequestListener } from "@hono/node-server";
import type { SandboxApi } from "../contracts/api.ts";
import { errorBody, WarrenError } from "../contracts/errors.ts";
import type { Logger } from "../lib/log.ts";
import { buildApp } from "./app.ts";
import { ApiKeys } from "./auth.ts";
import { toWarrenError } from "./failure.ts";
import { corsHeaders, type Entrance, Gate } from "./gate.ts";
import { listenOnTcp, listenOnUnix, resolveHost } from "./listen.ts";
import { isLoopbackAddress } from "./loopback.ts";
import { PREFIX, routes } from "./routes.ts";
import { sendError } from "./send-error.ts";
import { answerRaw, Sockets } from "./sockets.ts";

export interface ServerOptions {
  /** Plain keys; hashed at once and not kept. None: every request on TCP must come from this machine. */
  apiKeys?: readonly string[];
  /** Origins whose pages may call the API, such as `https://app.example`. */
  allowedOrigins?: readonly string[];
  /** Values of the Host header that are taken beside the loopback ones when there are no keys. */
  allowedHosts?: readonly string[];
  log: Logger;
  /** Default 1 MiB. */
  maxJsonBytes?: number;
  /** Largest file of one upload, default 4 GiB. */
  maxUploadBytes?: number;
  /** How long a request's headers may take, in milliseconds, default 15 s: long for a bad line, short for an attacker. */
  headersTimeoutMs?: number;
}

export interface WarrenServer {
  /** Port 0 picks a free one. @throws WarrenError `forbidden` for an address beyond loopback without API keys. */
  listenTcp(at: { host: string; port: number }): Promise<{ url: string }>;
  /** For our own user only, without a key. @throws WarrenError `engine_locked` when another server answers there. */
  listenUnix(path: string): Promise<void>;
  /** Stops listening, ends streams, gives requests that run a moment and cuts off the rest. */
  close(): Promise<void>;
}

const DEFAULT_HEADERS_MS = 15_000;
/** Longer than clients keep idle connections, so that it's they who close them and no request runs into a closing one. */
const KEEP_ALIVE_MS = 75_000;
const MAX_CONNECTIONS = 4096;
/** How long running requests may take once the server closes. */
const CLOSE_GRACE_MS = 2_000;
const CLOSE_SWEEP_MS = 20;

const openPaths = new Set(routes.filter((route) => "open" in route).map((route) => PREFIX + route.path));

/** Serves `api` as docs/wire/rest.md describes. Nothing is open until one of the listen methods is called. */
export function createServer(api: SandboxApi, options: ServerOptions): WarrenServer {
  const { log } = options;
  const keys = new ApiKeys(options.apiKeys ?? []);
  const gate = new Gate({
    keys,
    allowedOrigins: options.allowedOrigins ?? [],
    allowedHosts: options.allowedHosts ?? [],
  });
  const app = buildApp({
    api,
    log,
    limits: {
      maxJsonBytes: options.maxJsonBytes ?? 1024 ** 2,
      maxUploadBytes: options.maxUploadBytes ?? 4 * 1024 ** 3,
    },
  });
  const route = getRequestListener(app.fetch, {
    overrideGlobalObjects: false,
    // Bodies that are left over are `sendError`'s and Node's business.
    autoCleanupIncoming: false,
    // A request through the Unix socket needs no Host; the name is never used.
    hostname: "localhost",
    errorHandler: () =>
      Response.json(errorBody(new WarrenError("invalid_request", "the request line or Host is not valid")), {
        status: 400,
      }),
  });
  const sockets = new Sockets({ api, gate, log });
  const servers: Server[] = [];
  /** Connections that speak HTTP, and those among them on which a request runs. */
  const connections = new Set<Duplex>();
  const busy = new WeakSet<Duplex>();

  function open(entrance: Entrance): Server {
    const headersTimeout = options.headersTimeoutMs ?? DEFAULT_HEADERS_MS;
    const server = createHttpServer({
      headersTimeout,
      // Long uploads and long commands are legitimate; bodies have time limits of their own.
      requestTimeout: 0,
      connectionsCheckingInterval: headersTimeout / 3,
      keepAliveTimeout: KEEP_ALIVE_MS,
      keepAlive: true,
      noDelay: true,
    });
    server.maxConnections = MAX_CONNECTIONS;
    server.on("connection", (socket) => {
      connections.add(socket);
      socket.once("close", () => connections.delete(socket));
    });
    server.on("request", (request, response) => handle(request, response, entrance));
    server.on("upgrade", (request, socket, head) => {
      connections.delete(socket);
      sockets.upgrade(request, socket, head, entrance);
    });
    server.on("clientError", (error: NodeJS.ErrnoException, socket) => {
      // An answer that is under way must not get another one mixed into it.
      if (busy.has(socket)) socket.destroy();
      else answerRaw(socket, parserError(error));
    });
    servers.push(server);
    return server;
  }

  function handle(request: IncomingMessage, response: ServerResponse, entrance: Entrance): void {
    const startedAt = performance.now();
    const path = (request.url ?? "").split("?", 1)[0] ?? "";
    busy.add(request.socket);
    response.once("close", () => {
      busy.delete(request.socket);
      const ms = Math.round(performance.now() - startedAt);
      log.debug({ method: request.method, path, status: response.statusCode, ms }, "request");
    });
    response.setHeader("x-content-type-options", "nosniff");
    const origin = gate.readableOrigin(request);
    const isPreflight =
      request.method === "OPTIONS" && request.headers["access-control-request-method"] !== undefined;
    if (origin !== undefined) {
      for (const [name, value] of Object.entries(corsHeaders(origin, isPreflight)))
        response.setHeader(name, value);
    }
    try {
      // A preflight carries no key.
      gate.check(request, entrance, openPaths.has(path) || isPreflight);
    } catch (cause) {
      sendError(request, response, toWarrenError(cause, log));
      return;
    }
    if (isPreflight) response.writeHead(204).end();
    else void route(request, response);
  }

  return {
    async listenTcp({ host, port }) {
      const address = await resolveHost(host);
      if (!keys.required && !isLoopbackAddress(address)) {
        throw new WarrenError(
          "forbidden",
          `listening on ${host} needs API keys: others can reach that address`,
          {
            hint: "give at least one key (--api-key-file or WARREN_API_KEYS), or listen on 127.0.0.1",
          },
        );
      }
      const bound = await listenOnTcp(open("tcp"), address, port);
      return { url: `http://${urlHost(address)}:${bound}` };
    },
    async listenUnix(path) {
      await listenOnUnix(open("unix"), path);
    },
    async close() {
      const closed = servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve())));
      const giveUpAt = performance.now() + CLOSE_GRACE_MS;
      const sweep = setInterval(() => {
        const all = performance.now() > giveUpAt;
        for (const socket of connections) if (all || !busy.has(socket)) socket.destroy();
      }, CLOSE_SWEEP_MS);
      await sockets.close();
      await Promise.all(closed);
      clearInterval(sweep);
    },
  };
}

function parserError(error: NodeJS.ErrnoException): WarrenError {
  if (error.code === "HPE_HEADER_OVERFLOW") return new WarrenError("too_large", "the headers are too large");
  if (error.code === "ERR_HTTP_REQUEST_TIMEOUT") {
    return new WarrenError("cancelled", "the request's headers took too long");
  }
  return new WarrenError("invalid_request", "this is not a valid HTTP request");
}

/** A wildcard address can't be dialled everywhere; the loopback one always reaches it. */
function urlHost(address: string): string {
  if (address === "0.0.0.0") return "127.0.0.1";
  if (address === "::") return "[::1]";
  return address.includes(":") ? `[${address}]` : address;
}
