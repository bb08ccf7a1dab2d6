import {
  type ClientRequest,
  request as httpRequest,
  type IncomingMessage,
  type ServerResponse,
} from "node:http";
import type { Duplex } from "node:stream";
import type { SandboxApi } from "../../contracts/api.ts";
import { WarrenError } from "../../contracts/errors.ts";
import type { Logger } from "../../lib/log.ts";
import { splice } from "../../lib/splice.ts";
import type { ApiKeys } from "../auth.ts";
import { toWarrenError } from "../failure.ts";
import type { Entrance, Gate } from "../gate.ts";
import { breakOff, http2Stream, writableOf } from "../outgoing.ts";
import { answerRaw } from "../sockets.ts";
import { type Access, admit, cookieName } from "./access.ts";
import { answerHeaders, type HeaderList, requestHeaders } from "./headers.ts";
import { sendFailure, wantsPage } from "./page.ts";
import { type PreviewTarget, takeToken } from "./target.ts";
import type { PreviewTokens } from "./tokens.ts";

/** A raw connection to a TCP port inside a sandbox. */
export type Dial = (id: string, port: number) => Promise<Duplex>;

export interface PreviewOptions {
  api: SandboxApi;
  dial: Dial;
  tokens: PreviewTokens;
  keys: ApiKeys;
  gate: Gate;
  log: Logger;
}

interface Admitted {
  id: string;
  access: Access;
  /** From `/` on, without a token. */
  path: string;
}

interface Exchange {
  target: PreviewTarget;
  path: string;
  entrance: Entrance;
  /** Headers of the answer, beside its own. */
  more: HeaderList;
}

/**
 * HTTP servers inside sandboxes, for browsers and programs outside. Each request has a connection of its own to its port and goes
 * nowhere else, whatever it says; docs/SECURITY.md has what is promised.
 */
export class Preview {
  readonly #options: PreviewOptions;
  /** Upgraded ones, which the HTTP server doesn't know any more. */
  readonly #upgraded = new Set<Duplex>();

  constructor(options: PreviewOptions) {
    this.#options = options;
  }

  async serve(
    request: IncomingMessage,
    response: ServerResponse,
    entrance: Entrance,
    target: PreviewTarget,
  ): Promise<void> {
    try {
      const { id, access, path } = await this.#admit(request, entrance, target);
      const visits = request.method === "GET" || request.method === "HEAD";
      if (access.by === "link" && visits && wantsPage(request)) {
        // The page gets a cookie instead, and an address without the secret, which history and other servers may have.
        response.setHeader("set-cookie", cookieOf(access, target, entrance));
        return redirect(response, target.prefix + oneSlash(path));
      }
      // Its relative links would lead elsewhere.
      if (target.form === "path" && !target.path.startsWith("/") && visits) {
        return redirect(response, target.prefix + path);
      }
      if (target.form === "path" && request.headers["service-worker"] !== undefined) {
        throw new WarrenError(
          "forbidden",
          "there are no service workers by path: they would be of the API's origin",
          {
            hint: `open the port by its host name: warren preview ${id} ${target.port}`,
          },
        );
      }
      const inside = await this.#options.dial(id, target.port);
      // Beside what the answer says itself, and never less than that.
      const more: HeaderList =
        access.by === "cookie" && access.isVisit
          ? [["Content-Security-Policy", "frame-ancestors 'self'"]]
          : [];
      await this.#exchange(inside, request, response, { target, path, entrance, more });
    } catch (cause) {
      const error = toWarrenError(cause, this.#options.log);
      if (response.headersSent) breakOff(response);
      else sendFailure(request, response, error);
    }
  }

  async upgrade(
    request: IncomingMessage,
    socket: Duplex,
    head: Buffer,
    entrance: Entrance,
    target: PreviewTarget,
  ): Promise<void> {
    socket.on("error", () => {});
    this.#upgraded.add(socket);
    socket.once("close", () => this.#upgraded.delete(socket));
    try {
      if (request.headers.upgrade?.toLowerCase() !== "websocket" || request.method !== "GET") {
        throw new WarrenError("invalid_request", "the only upgrade taken is to a WebSocket");
      }
      const { id, path } = await this.#admit(request, entrance, target);
      const inside = await this.#options.dial(id, target.port);
      if (socket.destroyed) return void inside.destroy();
      socket.once("close", () => inside.destroy());
      const upstream = ask(inside, request, path, [
        ...requestHeaders(request, target, {
          keys: this.#options.keys,
          secure: entrance === "tls",
          hasBody: false,
        }),
        ["Connection", "Upgrade"],
        ["Upgrade", "websocket"],
      ]);
      let hasBegun = false;
      upstream.once("upgrade", (answer, stream, first) => {
        hasBegun = true;
        socket.write(headOf(answer, target, ["Connection: Upgrade", "Upgrade: websocket"]));
        if (first.length > 0) socket.write(first);
        if (head.length > 0) stream.write(head);
        splice(socket, stream);
      });
      upstream.once("response", (answer) => {
        hasBegun = true;
        socket.write(headOf(answer, target, ["Connection: close"]));
        answer.on("error", () => socket.destroy()).pipe(socket);
      });
      upstream.on("error", () => {
        if (!hasBegun) answerRaw(socket, unreadable());
        else socket.destroy();
      });
      upstream.end();
    } catch (cause) {
      answerRaw(socket, toWarrenError(cause, this.#options.log));
    }
  }

  /** Ends upgraded connections. */
  close(): void {
    for (const socket of this.#upgraded) socket.destroy();
  }

  /** Who asks, and for which sandbox. A stranger learns nothing of those that there are. */
  async #admit(request: IncomingMessage, entrance: Entrance, target: PreviewTarget): Promise<Admitted> {
    const { token, rest } = takeToken(target.path);
    const found = await this.#find(target);
    const id = "id" in found ? found.id : undefined;
    const access = admit(request, entrance, target, id, token, this.#options);
    if (!("id" in found)) throw found.error;
    return { id: found.id, access, path: rest.startsWith("/") ? rest : `/${rest}` };
  }

  async #find({ form, sandbox }: PreviewTarget): Promise<{ id: string } | { error: unknown }> {
    try {
      const { id, name } = await this.#options.api.get(sandbox);
      // By the beginning of its id, one sandbox would have many host names, and so as many origins.
      if (form === "path" || id === sandbox || name === sandbox) return { id };
      return { error: new WarrenError("sandbox_not_found", "sandbox not found") };
    } catch (error) {
      return { error };
    }
  }

  async #exchange(
    inside: Duplex,
    request: IncomingMessage,
    response: ServerResponse,
    { target, path, entrance, more }: Exchange,
  ): Promise<void> {
    const { keys } = this.#options;
    if (response.destroyed || response.closed) return void inside.destroy();
    response.once("close", () => inside.destroy());
    const headers = requestHeaders(request, target, {
      keys,
      secure: entrance === "tls",
      hasBody: hasBody(request, response),
    });
    await new Promise<void>((resolve, reject) => {
      const upstream = ask(inside, request, path, headers);
      // More than one may come, and only the first is news.
      upstream.on("error", (cause) => reject(unreadable(cause)));
      upstream.once("upgrade", () => reject(unreadable()));
      upstream.once("response", (answer) => {
        try {
          begin(response, answer, [...answerHeaders(answer, target), ...more]);
        } catch (cause) {
          return reject(unreadable(cause));
        }
        // The server inside broke off, or the client has gone: no failure of ours.
        answer.once("error", (cause) => reject(unreadable(cause)));
        answer.once("end", resolve);
        answer.pipe(writableOf(response));
        response.once("finish", () => {
          // What the client still sends is nobody's; unread it would block the connection's next request.
          request.unpipe(upstream);
          request.resume();
        });
      });
      request.pipe(upstream);
    });
  }
}

/** A request on a connection that is for it alone. */
function ask(inside: Duplex, request: IncomingMessage, path: string, headers: HeaderList): ClientRequest {
  return httpRequest({
    // No agent beside it: even the one of `agent: false` would make connections of its own, and not here.
    createConnection: () => inside,
    setHost: false,
    method: request.method ?? "GET",
    path,
    headers: headers.flat() as never,
  });
}

function begin(response: ServerResponse, answer: IncomingMessage, headers: HeaderList): void {
  const grouped = new Map<string, { name: string; values: string[] }>();
  for (const [name, value] of headers) {
    const entry = grouped.get(name.toLowerCase()) ?? { name, values: [] };
    entry.values.push(value);
    grouped.set(name.toLowerCase(), entry);
  }
  for (const { name, values } of grouped.values()) {
    response.setHeader(name, values.length === 1 ? (values[0] ?? "") : values);
  }
  response.statusCode = answer.statusCode ?? 502;
  if (!http2Stream(response) && answer.statusMessage) response.statusMessage = answer.statusMessage;
  // An event stream's first event may be long in coming.
  response.flushHeaders();
}

function headOf(answer: IncomingMessage, target: PreviewTarget, ours: readonly string[]): string {
  const lines = answerHeaders(answer, target).map(([name, value]) => `${name}: ${value}`);
  return `${[`HTTP/1.1 ${answer.statusCode} ${answer.statusMessage}`, ...lines, ...ours].join("\r\n")}\r\n\r\n`;
}

function hasBody(request: IncomingMessage, response: ServerResponse): boolean {
  const stream = http2Stream(response);
  if (stream) return !stream.endAfterHeaders;
  const { headers } = request;
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
}

function cookieOf(
  { token, expiresAt }: Extract<Access, { by: "link" }>,
  { form, prefix }: PreviewTarget,
  entrance: Entrance,
): string {
  const seconds = Math.max(1, expiresAt - Math.floor(Date.now() / 1000));
  const path = form === "host" ? "/" : `${prefix}/`;
  const secure = entrance === "tls" ? "; Secure" : "";
  return `${cookieName(form, entrance)}=${token}; Path=${path}; Max-Age=${seconds}; HttpOnly; SameSite=Lax${secure}`;
}

/** `//name` at the beginning would lead to another server. */
function oneSlash(path: string): string {
  return path.replace(/^[/\\]+/, "/");
}

function redirect(response: ServerResponse, location: string): void {
  response.writeHead(302, {
    location,
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "content-length": 0,
  });
  response.end();
}

function unreadable(cause?: unknown): WarrenError {
  return new WarrenError("port_unreachable", "what listens there did not answer as an HTTP server", {
    hint: "see whether the server inside speaks HTTP/1.1, and its log",
    ...(cause === undefined ? {} : { cause }),
  });
}
