import { type IncomingMessage, STATUS_CODES } from "node:http";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";
import type { SandboxApi } from "../contracts/api.ts";
import { errorBody, WarrenError } from "../contracts/errors.ts";
import type { Logger } from "../lib/log.ts";
import { DetachableExecs, type DetachableLimits, type ExecOwner } from "./detachable-execs.ts";
import { MAX_FRAME_BYTES } from "./exec-input.ts";
import { serveExecStream } from "./exec-stream.ts";
import { toWarrenError } from "./failure.ts";
import type { Entrance, Gate } from "./gate.ts";
import { PREFIX } from "./route.ts";
import { routes } from "./routes.ts";

/** The subprotocol of Warren's own clients; den's name none. */
export const SUBPROTOCOL = "warren.v1";

/** Keeps address translators from forgetting a quiet connection. */
const PING_MS = 30_000;

/** How long clients may take to answer our closing frame when the server closes. */
const GOODBYE_MS = 1_000;

export interface SocketsOptions {
  api: SandboxApi;
  gate: Gate;
  log: Logger;
  limits: Partial<DetachableLimits>;
}

/** Takes the upgrades of the WebSocket routes. */
export class Sockets {
  readonly #options: SocketsOptions;
  readonly #server = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_FRAME_BYTES,
    perMessageDeflate: false,
    // Never the one that carries a key.
    handleProtocols: (offered) => (offered.has(SUBPROTOCOL) ? SUBPROTOCOL : false),
  });
  readonly #closing = new AbortController();
  readonly #streams = new Set<Promise<void>>();
  readonly #detachables: DetachableExecs;

  constructor(options: SocketsOptions) {
    this.#options = options;
    this.#detachables = new DetachableExecs(options.limits, options.log);
    this.#server.on("wsClientError", (_error, socket) => {
      answerRaw(socket, new WarrenError("invalid_request", "the WebSocket handshake is not valid"));
    });
  }

  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer, entrance: Entrance): void {
    // A client that resets the connection meanwhile is no concern of ours.
    socket.on("error", () => undefined);
    try {
      const owner = this.#accept(request, entrance);
      this.#server.handleUpgrade(request, socket, head, (open) => this.#serve(open, owner, entrance));
    } catch (cause) {
      answerRaw(socket, toWarrenError(cause, this.#options.log));
    }
  }

  /** What resumable streams hold: bytes of output that wait, and how many streams there are. */
  get load(): { bytes: number; streams: number } {
    return this.#detachables.load;
  }

  /** Tells every client that the server goes away and ends the commands; resolves when all are gone. */
  async close(): Promise<void> {
    const reason = new WarrenError("shutting_down", "the server is shutting down");
    this.#closing.abort(reason);
    await Promise.allSettled(this.#streams);
    await this.#detachables.close(reason);
    const { clients } = this.#server;
    const goodbyes = [...clients].map((client) => new Promise((resolve) => client.once("close", resolve)));
    const cut = setTimeout(() => {
      for (const client of clients) client.terminate();
    }, GOODBYE_MS);
    await Promise.all(goodbyes);
    clearTimeout(cut);
  }

  /** The sandbox whose stream is asked for, and by whom. */
  #accept(request: IncomingMessage, entrance: Entrance): ExecOwner {
    const path = (request.url ?? "").split("?", 1)[0] ?? "";
    const identity = this.#options.gate.check(request, entrance, false);
    if (request.headers.upgrade?.toLowerCase() !== "websocket") {
      throw new WarrenError("invalid_request", "the only upgrade taken is to a WebSocket", {
        hint: "send other requests without an Upgrade header, as HTTP/1.1",
      });
    }
    const id = streamPattern.exec(path)?.[1];
    if (request.method !== "GET" || id === undefined) {
      throw new WarrenError("route_not_found", "no WebSocket route here");
    }
    if (this.#closing.signal.aborted) throw this.#closing.signal.reason;
    return { id: decodeId(id), identity };
  }

  #serve(socket: WebSocket, owner: ExecOwner, entrance: Entrance): void {
    // No answer is asked for: a client may hold its socket up on purpose, save where it said that its stream is resumable.
    const ping = setInterval(() => socket.ping(), PING_MS);
    socket.once("close", () => clearInterval(ping));
    const { api, log } = this.#options;
    const stream = serveExecStream(socket, {
      api,
      owner,
      log,
      closing: this.#closing.signal,
      detachables: this.#detachables,
      probe: entrance !== "unix",
    });
    this.#streams.add(stream);
    void stream.finally(() => this.#streams.delete(stream));
  }
}

const streamPattern = new RegExp(
  `^${PREFIX}${routes.find((route) => route.operation === "execStream")?.path.replace(":id", "([^/]+)")}$`,
);

function decodeId(id: string): string {
  try {
    return decodeURIComponent(id);
  } catch {
    throw new WarrenError("sandbox_not_found", "sandbox not found");
  }
}

/** How long a peer that got its last answer may take to close. */
const LAST_WORD_MS = 1_000;

/** An HTTP answer on a connection that has left the HTTP server, and its end, whatever the peer does. */
export function answerRaw(socket: Duplex, error: WarrenError): void {
  const cut = setTimeout(() => socket.destroy(), LAST_WORD_MS);
  socket.once("close", () => clearTimeout(cut));
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  const body = JSON.stringify(errorBody(error));
  socket.end(
    [
      `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status] ?? "Error"}`,
      "Content-Type: application/json",
      `Content-Length: ${Buffer.byteLength(body)}`,
      "Connection: close",
      "",
      body,
    ].join("\r\n"),
  );
  // What the peer still sends is thrown away: closing on it would reset the connection, and the answer with it.
  socket.resume();
}
