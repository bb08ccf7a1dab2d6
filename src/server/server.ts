import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import type { SandboxApi } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { PreviewLink } from "../contracts/ports.ts";
import type { Logger } from "../lib/log.ts";
import { buildApp } from "./app.ts";
import { ApiKeys } from "./auth.ts";
import { callerOf } from "./caller.ts";
import type { DetachableLimits } from "./detachable-execs.ts";
import { toWarrenError } from "./failure.ts";
import { corsHeaders, type Entrance, Gate } from "./gate.ts";
import type { LinkTo, Rights } from "./handlers/handler.ts";
import { listenOnTcp, listenOnUnix, resolveHost } from "./listen.ts";
import { type Listener, openListener, type TlsIdentity } from "./listener.ts";
import { isLoopbackAddress } from "./loopback.ts";
import { type Listening, LOCAL_DOMAIN, type PreviewDomain, previewLink } from "./preview/links.ts";
import { type Dial, Preview } from "./preview/preview.ts";
import { type PreviewTarget, previewTarget } from "./preview/target.ts";
import { createPreviewTokens } from "./preview/tokens.ts";
import { PREFIX } from "./route.ts";
import { routes } from "./routes.ts";
import { sendError } from "./send-error.ts";
import { answerRaw, Sockets } from "./sockets.ts";
import { asksForTunnel, Tunnels } from "./tunnels.ts";

export interface ServerOptions {
  /** Plain keys; hashed at once and not kept. None: every request on TCP must come from this machine. */
  apiKeys?: readonly string[];
  /** Origins whose pages may call the API, such as `https://app.example`. */
  allowedOrigins?: readonly string[];
  /** Values of the Host header that are taken beside the loopback ones when there are no keys. */
  allowedHosts?: readonly string[];
  /**
   * Clients over TCP may mount any directory of this machine into sandboxes, and so read and change what the engine's user
   * can. Those of the Unix socket are that user, and always may.
   */
  allowBinds?: boolean;
  /** Clients over TCP may have sandboxes with this machine's network, and so reach what listens on its loopback only. */
  allowHostNetwork?: boolean;
  /**
   * Addresses of this machine, beside the loopback ones, on which clients over TCP may publish ports of sandboxes: others can
   * reach those. Clients of the Unix socket may use any.
   */
  publishAddresses?: readonly string[];
  /** How ports inside sandboxes are reached. Without it there are neither previews nor raw connections. */
  ports?: PortOptions;
  log: Logger;
  /** Default 1 MiB. */
  maxJsonBytes?: number;
  /** Largest file of one upload, default 4 GiB. */
  maxUploadBytes?: number;
  /** How long a request's headers may take, in milliseconds, default 15 s: long for a bad line, short for an attacker. */
  headersTimeoutMs?: number;
  /** Limits of resumable exec streams. */
  resumable?: Partial<DetachableLimits>;
}

export interface PortOptions {
  dial: Dial;
  /** At least 32 secret bytes, with which preview links are signed. */
  key: Buffer;
  /** Below which each port has a name of its own, beside `localhost`. */
  domain?: PreviewDomain | undefined;
  /** The port of the listener that is opened for previews when there is no other one; it is told the one that it got. */
  listener?: { port: number; onPort(port: number): void };
}

export interface TcpOptions {
  host: string;
  /** 0 picks a free one. */
  port: number;
  /** HTTPS, from TLS 1.2 on, and nothing else. */
  tls?: TlsIdentity;
  /** With TLS: HTTP/2 for clients that offer it. Others, and WebSockets, go on over HTTP/1.1. */
  http2?: boolean;
}

export interface TcpListener {
  url: string;
  /** With TLS: the identity for new connections, such as a renewed certificate. @throws WarrenError `invalid_request` */
  replaceIdentity(tls: TlsIdentity): void;
}

export interface WarrenServer {
  /**
   * @throws WarrenError `forbidden` for an address beyond loopback without API keys; `invalid_request` for a certificate
   * and a key that can't be used.
   */
  listenTcp(options: TcpOptions): Promise<TcpListener>;
  /** For our own user only, without a key. @throws WarrenError `engine_locked` when another server answers there. */
  listenUnix(path: string): Promise<void>;
  /** Opens the listener for previews, which else the first link opens. Without `ports` there is none. */
  listenForPreviews(): Promise<void>;
  /** What resumable exec streams hold now: bytes of output that wait for their clients, and how many streams there are. */
  execLoad(): { bytes: number; streams: number };
  /** Stops listening, ends streams, gives requests that run a moment and cuts off the rest. */
  close(): Promise<void>;
}

type Secured = { tls?: TlsIdentity | undefined; http2?: boolean | undefined; previewsOnly?: boolean };

const DEFAULT_HEADERS_MS = 15_000;

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
  const ownRights: Rights = {
    mayBind: true,
    mayHaveHostNetwork: true,
    mayUseSshAgent: true,
    checkPublish: () => {},
  };
  const clientRights: Rights = {
    mayBind: options.allowBinds === true,
    mayHaveHostNetwork: options.allowHostNetwork === true,
    mayUseSshAgent: false,
    checkPublish: (address) => checkPublish(address, options.publishAddresses ?? []),
  };
  const sockets = new Sockets({ api, gate, log, limits: options.resumable ?? {} });
  const listeners: Listener[] = [];
  const { ports } = options;
  const tokens = ports && createPreviewTokens(ports.key);
  const domains = [...(ports?.domain ? [ports.domain.domain.toLowerCase()] : []), LOCAL_DOMAIN];
  const preview = ports && tokens && new Preview({ api, dial: ports.dial, tokens, keys, gate, log });
  const tunnels = ports && new Tunnels({ dial: ports.dial, gate, log });
  /** Where browsers come in: the first listener on TCP, or one that serves nothing but previews. */
  let listening: Promise<Listening> | undefined;

  async function listenForPreviews(): Promise<Listening> {
    const address = "127.0.0.1";
    const wanted = ports?.listener?.port ?? 0;
    const bind = (port: number) => listenOnTcp(open("tcp", { previewsOnly: true }).server, address, port);
    // Links that somebody has already lead to the one of last time.
    const port = await bind(wanted).catch((error) => (wanted === 0 ? Promise.reject(error) : bind(0)));
    ports?.listener?.onPort(port);
    log.info({ address, port }, "serving previews");
    return { scheme: "http", address, port };
  }

  function listeningForPreviews(): Promise<Listening> {
    listening ??= listenForPreviews().catch((error) => {
      listening = undefined;
      throw error;
    });
    return listening;
  }

  function linkTo(request: IncomingMessage, entrance: Entrance, wanted: LinkTo): Promise<PreviewLink> {
    if (!ports || !tokens) throw noPreviews();
    return previewLink(request, entrance, wanted, {
      api,
      tokens,
      domain: ports.domain,
      listening: listeningForPreviews,
    });
  }

  function open(entrance: Entrance, { tls, http2, previewsOnly = false }: Secured = {}): Listener {
    const listener = usable(() =>
      openListener({
        tls,
        http2,
        headersTimeoutMs: options.headersTimeoutMs ?? DEFAULT_HEADERS_MS,
        onRequest: (request, response) => receive(request, response, entrance, previewsOnly),
        onUpgrade: (request, socket, head) => upgrade(request, socket, head, entrance, previewsOnly),
      }),
    );
    listeners.push(listener);
    return listener;
  }

  /** The port that a request is for; undefined: none, so that it is the API's. */
  function targetOf(request: IncomingMessage, previewsOnly: boolean): PreviewTarget | undefined {
    const target = previewTarget(request, domains);
    if (target && !preview) throw noPreviews();
    // By path whoever reaches a server without keys gets in, and who reaches this listener is anybody on this machine.
    if (previewsOnly && target?.form !== "host") {
      throw new WarrenError("route_not_found", "there are only previews by name here");
    }
    return target;
  }

  /** Ports of sandboxes first: what their host names are asked for is never ours to answer. */
  function receive(
    request: IncomingMessage,
    response: ServerResponse,
    entrance: Entrance,
    previewsOnly: boolean,
  ): void {
    try {
      const target = targetOf(request, previewsOnly);
      if (target && preview) {
        note(request, response);
        void preview.serve(request, response, entrance, target);
      } else handle(request, response, entrance);
    } catch (cause) {
      sendError(request, response, toWarrenError(cause, log));
    }
  }

  function upgrade(
    request: IncomingMessage,
    socket: Duplex,
    head: Buffer,
    entrance: Entrance,
    previewsOnly: boolean,
  ): void {
    try {
      const target = targetOf(request, previewsOnly);
      if (target && preview) void preview.upgrade(request, socket, head, entrance, target);
      else if (tunnels && asksForTunnel(request)) void tunnels.upgrade(request, socket, head, entrance);
      else sockets.upgrade(request, socket, head, entrance);
    } catch (cause) {
      socket.on("error", () => {});
      answerRaw(socket, toWarrenError(cause, log));
    }
  }

  /** Without the query, which may hold a secret. */
  function note(request: IncomingMessage, response: ServerResponse): void {
    const startedAt = performance.now();
    const path = (request.url ?? "").split("?", 1)[0] ?? "";
    response.once("close", () => {
      const ms = Math.round(performance.now() - startedAt);
      log.debug({ method: request.method, path, status: response.statusCode, ms }, "request");
    });
  }

  function handle(request: IncomingMessage, response: ServerResponse, entrance: Entrance): void {
    note(request, response);
    const path = (request.url ?? "").split("?", 1)[0] ?? "";
    response.setHeader("x-content-type-options", "nosniff");
    const origin = gate.readableOrigin(request);
    const isPreflight =
      request.method === "OPTIONS" && request.headers["access-control-request-method"] !== undefined;
    if (origin !== undefined) {
      for (const [name, value] of Object.entries(corsHeaders(origin, isPreflight)))
        response.setHeader(name, value);
    }
    let identity: string;
    try {
      // A preflight carries no key.
      identity = gate.check(request, entrance, openPaths.has(path) || isPreflight);
    } catch (cause) {
      sendError(request, response, toWarrenError(cause, log));
      return;
    }
    if (isPreflight) response.writeHead(204).end();
    else {
      const rights = entrance === "unix" ? ownRights : clientRights;
      void app(request, response, {
        rights,
        by: callerOf(request, entrance, identity),
        linkTo: (wanted) => linkTo(request, entrance, wanted),
      });
    }
  }

  return {
    async listenTcp({ host, port, tls, http2 }) {
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
      if (http2 && !tls) throw new WarrenError("invalid_request", "HTTP/2 needs TLS");
      const listener = open(tls ? "tls" : "tcp", { tls, http2 });
      const bound = await listenOnTcp(listener.server, address, port);
      listening ??= Promise.resolve({ scheme: tls ? "https" : "http", address, port: bound });
      return {
        url: `${tls ? "https" : "http"}://${urlHost(address)}:${bound}`,
        replaceIdentity: (identity) => usable(() => listener.replaceIdentity(identity)),
      };
    },
    async listenUnix(path) {
      await listenOnUnix(open("unix").server, path);
    },
    async listenForPreviews() {
      if (ports) await listeningForPreviews();
    },
    execLoad: () => sockets.load,
    async close() {
      const closed = listeners.map((listener) => listener.close());
      preview?.close();
      tunnels?.close();
      await sockets.close();
      await Promise.all(closed);
    },
  };
}

function noPreviews(): WarrenError {
  return new WarrenError("unsupported", "this server has no previews");
}

/** Others than this machine's own programs reach every address but the loopback ones. */
function checkPublish(address: string, allowed: readonly string[]): void {
  // The engine's words for its default.
  if (address === "" || address === "localhost" || isLoopbackAddress(address) || allowed.includes(address))
    return;
  throw new WarrenError("forbidden", `ports: this server publishes nothing on ${JSON.stringify(address)}`, {
    hint: "leave the address out for 127.0.0.1; whoever runs the server allows others: warren serve --publish-address",
  });
}

/** Node's own errors for a certificate or key say little. */
function usable<T>(use: () => T): T {
  try {
    return use();
  } catch (cause) {
    throw new WarrenError("invalid_request", "the TLS certificate and key can't be used", { cause });
  }
}

/** A wildcard address can't be dialled everywhere; the loopback one always reaches it. */
function urlHost(address: string): string {
  if (address === "0.0.0.0") return "127.0.0.1";
  if (address === "::") return "[::1]";
  return address.includes(":") ? `[${address}]` : address;
}
