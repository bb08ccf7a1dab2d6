import {
  Agent,
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type RequestOptions,
  type ServerResponse,
  STATUS_CODES,
} from "node:http";
import type { Duplex } from "node:stream";
import { flow, splice } from "../../lib/splice.ts";
import { createPatience } from "../patience.ts";
import { type Admitted, type Refusal, type RequestGuard, refuse } from "./guard.ts";
import {
  endToEnd,
  harmless,
  headOf,
  isChunked,
  isFinal,
  isLast,
  pairs,
  reasonOf,
  redacted,
} from "./http-heads.ts";
import { connectTarget, type Destination, originOf, type Target, targetOf } from "./http-target.ts";
import { cleanAnswer, lead } from "./intercept/answer.ts";
import type { Opened, Upstream } from "./upstream.ts";

/** Of a request's or an answer's head. */
const MAX_HEADER_BYTES = 32_768;
/** Until a client has sent a request's head: what trickles in slower is no request. */
const HEAD_TIMEOUT_MS = 30_000;
const KEEP_ALIVE_MS = 60_000;

export interface HttpProxy {
  /** Serves a client that begins with a request; with `fixed`, as if it were that server. */
  serve(client: Duplex, fixed?: Destination): void;
  close(): void;
}

export interface HttpProxyOptions {
  upstream: Upstream;
  guard: RequestGuard;
  /** Takes over a client to which a tunnel was granted. */
  onTunnel: (client: Duplex, opened: Extract<Opened, { outcome: "open" }>, port: number) => void;
  /** Until a client has sent the head of its first request, in milliseconds. */
  headMs?: number;
  /** Until that of another one. */
  keepAliveMs?: number;
}

/**
 * A forward proxy (RFC 9110, 7.6): CONNECT, requests in absolute form, and upgrades. Node's parser, in its strict mode, says what
 * a request is: what it takes for ambiguous (two lengths, folded lines) never gets here.
 */
export function createHttpProxy({
  upstream,
  guard,
  onTunnel,
  headMs = HEAD_TIMEOUT_MS,
  keepAliveMs = KEEP_ALIVE_MS,
}: HttpProxyOptions): HttpProxy {
  const destinations = new WeakMap<Duplex, Destination>();
  const agent = new UpstreamAgent(upstream);
  const server = createServer(
    {
      maxHeaderSize: MAX_HEADER_BYTES,
      // A body takes as long as it takes.
      requestTimeout: 0,
      keepAliveTimeout: KEEP_ALIVE_MS,
      insecureHTTPParser: false,
      requireHostHeader: true,
    },
    (request, response) => forward(request, response),
  );
  // A client that has said all, and closed its half, is still owed its answer. Node's types don't know of it.
  Object.assign(server, { httpAllowHalfOpen: true });

  const patience = createPatience(keepAliveMs);

  /** Where it goes, and as what. */
  const admit = (request: IncomingMessage): { target: Target; admitted: Admitted } | Refusal => {
    const target = targetOf(request, destinations.get(request.socket));
    if ("status" in target) return target;
    const admitted = guard.admit(originOf(target), request.url ?? "", endToEnd(request.rawHeaders, ["host"]));
    return "status" in admitted ? admitted : { target, admitted };
  };

  const forward = (request: IncomingMessage, response: ServerResponse) => {
    patience.onRequest(request.socket, response);
    const granted = admit(request);
    if ("status" in granted) return answer(response, granted);
    const { target, admitted } = granted;
    const outgoing = httpRequest(outgoingOptions(request, granted, agent));
    outgoing.once("response", (incoming) => {
      const status = incoming.statusCode ?? 0;
      if (!isFinal(status)) {
        outgoing.destroy();
        return answer(response, refuse(502, "the server answers with a status that there is not"));
      }
      const clean = cleanAnswer(admitted.redaction, {
        fields: endToEnd(incoming.rawHeaders),
        hasBody: request.method !== "HEAD" && status !== 204 && status !== 304,
        isPartial: status === 206,
      });
      if ("status" in clean) {
        outgoing.destroy();
        return answer(response, clean);
      }
      // The client's connection is as good as the server's where there is one for each.
      if (target.agent && isLast(incoming)) clean.fields.push("connection", "close");
      response.writeHead(status, redacted(admitted, reasonOf(incoming)), clean.fields.map(harmless));
      const body = lead(incoming, clean.through);
      body.once("error", () => response.destroy());
      body.once("end", () => {
        if (incoming.rawTrailers.length > 0) {
          const trailers = incoming.rawTrailers.map((text) => redacted(admitted, harmless(text)));
          response.addTrailers(pairs(trailers));
        }
        response.end();
      });
      body.pipe(response, { end: false });
    });
    if (request.headers.expect !== undefined) {
      outgoing.once("continue", () => response.writeContinue());
      outgoing.flushHeaders();
    }
    outgoing.once("upgrade", (_incoming, socket) => {
      // Nobody asked for it.
      socket.destroy();
      answer(response, refuse(502, "the server changes the protocol unasked"));
    });
    outgoing.once("error", (error) => answer(response, refusalOf(error)));
    response.once("close", () => {
      if (!response.writableFinished) outgoing.destroy();
    });
    request.pipe(outgoing, { end: false });
    request.once("end", () => {
      if (request.rawTrailers.length > 0) outgoing.addTrailers(pairs(request.rawTrailers));
      outgoing.end();
    });
    request.once("error", () => outgoing.destroy());
  };
  // Whether a body is wanted is for its server to say.
  server.on("checkContinue", forward);

  server.on("connect", (request, client: Duplex, head: Buffer) => {
    patience.forget(client);
    client.on("error", () => {});
    if (head.length > 0) client.unshift(head);
    if (destinations.has(client)) return endWith(client, refuse(400, "this connection leads to one server"));
    const target = connectTarget(request);
    if ("status" in target) return endWith(client, target);
    const { host, port } = target;
    void upstream.open(host, port).then((opened) => {
      if (opened.outcome !== "open") return endWith(client, refusalFor(opened));
      if (client.destroyed) return opened.socket.destroy();
      client.write("HTTP/1.1 200 Connection established\r\n\r\n");
      onTunnel(client, opened, port);
    });
  });

  server.on("upgrade", (request, client: Duplex, head: Buffer) => {
    patience.forget(client);
    client.on("error", () => {});
    const granted = admit(request);
    if ("status" in granted) return endWith(client, granted);
    const { redaction } = granted.admitted;
    if (/\b(?:h2c|tls)\b/i.test(request.headers.upgrade ?? "")) {
      // Behind these come requests that nobody here could look at.
      return endWith(client, refuse(400, "HTTP/2 and TLS begin without an upgrade"));
    }
    if (redaction && request.headers.upgrade?.toLowerCase() !== "websocket") {
      return endWith(client, refuse(400, "a host with a secret is spoken to over HTTP or WebSocket only"));
    }
    const { headers, ...options } = outgoingOptions(request, granted, agent);
    const outgoing = httpRequest({
      ...options,
      headers: [...headers, "connection", "Upgrade", "upgrade", request.headers.upgrade ?? ""],
    });
    outgoing.once("upgrade", (incoming, socket, first) => {
      const more = ["connection", "Upgrade", "upgrade", incoming.headers.upgrade ?? ""];
      client.write(headOf(incoming, endToEnd(incoming.rawHeaders), more, granted.admitted));
      if (first.length > 0) socket.unshift(first);
      if (head.length > 0) client.unshift(head);
      if (!redaction) return splice(client, socket);
      const redactor = redaction.stream();
      flow(client, socket);
      flow(socket, redactor);
      flow(redactor, client);
    });
    outgoing.once("response", (incoming) => {
      if (!isFinal(incoming.statusCode ?? 0)) {
        outgoing.destroy();
        return endWith(client, refuse(502, "the server answers with a status that there is not"));
      }
      const clean = cleanAnswer(redaction, {
        fields: endToEnd(incoming.rawHeaders),
        hasBody: true,
        isPartial: incoming.statusCode === 206,
      });
      if ("status" in clean) {
        outgoing.destroy();
        return endWith(client, clean);
      }
      // Its pieces are put together here, and its end is the connection's.
      const whole = clean.fields.filter((_text, i) => !isChunked(clean.fields[i - (i % 2)]));
      client.write(headOf(incoming, whole, ["connection", "close"], granted.admitted));
      lead(incoming, clean.through).pipe(client);
    });
    outgoing.once("error", (error) => endWith(client, refusalOf(error)));
    client.once("close", () => outgoing.destroy());
    outgoing.end();
  });

  server.on("clientError", (_error, client: Duplex) =>
    endWith(client, refuse(400, "this is no HTTP request")),
  );

  return {
    serve(client, fixed) {
      if (fixed) destinations.set(client, fixed);
      patience.begin(client, headMs);
      server.emit("connection", client);
    },
    close() {
      server.closeAllConnections();
      server.close();
      agent.destroy();
    },
  };
}

/** What an agent says of a connection that there can't be. */
export class RefusedError extends Error {
  readonly refusal: Refusal;
  constructor(refusal: Refusal) {
    super(refusal.reason);
    this.refusal = refusal;
  }
}

/** Keeps connections to the servers that a sandbox talks to, each of them decided on when it was opened. */
class UpstreamAgent extends Agent {
  readonly #upstream: Upstream;
  constructor(upstream: Upstream) {
    super({ keepAlive: true, maxFreeSockets: 16, timeout: KEEP_ALIVE_MS });
    this.#upstream = upstream;
  }

  override createConnection(
    options: RequestOptions,
    callback?: (error: Error | null, stream: Duplex) => void,
  ): undefined {
    const nothing = undefined as unknown as Duplex;
    this.#upstream.open(String(options.host), Number(options.port)).then(
      (opened) =>
        opened.outcome === "open"
          ? callback?.(null, opened.socket)
          : callback?.(new RefusedError(refusalFor(opened)), nothing),
      (error: Error) => callback?.(error, nothing),
    );
    return undefined;
  }
}

function outgoingOptions(
  request: IncomingMessage,
  { target, admitted }: { target: Target; admitted: Admitted },
  agent: Agent,
) {
  return {
    agent: target.agent ?? agent,
    method: request.method ?? "GET",
    host: target.host,
    port: target.port,
    path: target.path,
    setHost: false,
    insecureHTTPParser: false,
    maxHeaderSize: MAX_HEADER_BYTES,
    headers: ["host", target.authority, ...admitted.fields],
  };
}

function refusalFor(opened: Exclude<Opened, { outcome: "open" }>): Refusal {
  return opened.outcome === "denied"
    ? refuse(403, `blocked by the sandbox's network policy: ${opened.reason}`)
    : refuse(502, opened.reason);
}

function refusalOf(error: Error): Refusal {
  return error instanceof RefusedError ? error.refusal : refuse(502, "the server has gone");
}

function answer(response: ServerResponse, { status, reason }: Refusal): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const body = `${reason}\n`;
  response.writeHead(status, { "content-type": "text/plain", "content-length": Buffer.byteLength(body) });
  response.end(body);
}

function endWith(client: Duplex, { status, reason }: Refusal): void {
  if (client.destroyed || !client.writable) return;
  const body = `${reason}\n`;
  client.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: text/plain\r\nconnection: close\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}
