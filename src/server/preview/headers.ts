import type { IncomingMessage } from "node:http";
import { hopByHop } from "../../lib/hop-by-hop.ts";
import type { ApiKeys } from "../auth.ts";
import { KEY_PROTOCOL } from "../auth.ts";
import { cookies } from "./access.ts";
import { type PreviewTarget, TOKEN_PARAMETER } from "./target.ts";

/** Whole messages are passed on, so that their pieces are this connection's too. */
const ofConnection = [...hopByHop, "trailer", "transfer-encoding", "http2-settings"];

/** What we say of the client, and nobody else does. */
const forwarding = /^(forwarded|x-forwarded-.*|x-real-ip|x-warren-.*)$/;

/**
 * What of an answer would act on more than the origin that it comes from: on other ports of its host or on names beside it.
 */
const farReaching = ["alt-svc", "clear-site-data", "public-key-pins", "strict-transport-security"];
/** By path the origin is the API's own. */
const ofOrigin = [
  "set-cookie",
  "service-worker-allowed",
  "nel",
  "report-to",
  "reporting-endpoints",
  "origin-agent-cluster",
];

/**
 * A page by path gets an origin that is nobody's, so that it can neither read what the API answers nor ask with its Origin. No
 * `allow-same-origin`, and no popups that would be free of it.
 */
const PAGE_POLICY = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts";

export type HeaderList = [name: string, value: string][];

/** What a request says to the server inside: without what is ours or this connection's, and with where it came from. */
export function requestHeaders(
  request: IncomingMessage,
  target: PreviewTarget,
  { keys, secure, hasBody }: { keys: ApiKeys; secure: boolean; hasBody: boolean },
): HeaderList {
  const dropped = droppedBy(request.headers.connection);
  const host = String(request.headers[":authority"] ?? request.headers.host ?? "");
  const list = listOf(request.rawHeaders).filter(([name, value]) => {
    const lower = name.toLowerCase();
    if (lower.startsWith(":") || dropped.has(lower) || forwarding.test(lower)) return false;
    if (["host", "cookie", "expect", "sec-websocket-protocol"].includes(lower)) return false;
    if (lower === "x-api-key") return !keys.holds(value);
    if (lower === "authorization") return !keys.holds(value.replace(/^Bearer +/i, "").trim());
    return !(lower === "referer" && value.includes(TOKEN_PARAMETER));
  });
  // By path, cookies are of all that this host serves, on all of its ports.
  const kept = target.form === "path" ? [] : cookies(request).filter(([name]) => !isOurs(name));
  if (kept.length > 0) list.push(["Cookie", kept.map(([name, value]) => `${name}=${value}`).join("; ")]);
  const protocols = String(request.headers["sec-websocket-protocol"] ?? "")
    .split(",")
    .map((one) => one.trim())
    .filter((one) => one !== "" && !one.startsWith(KEY_PROTOCOL));
  if (protocols.length > 0) list.push(["Sec-WebSocket-Protocol", protocols.join(", ")]);
  // By path nothing inside knows our name; by host it is the one that pages of this port have.
  list.unshift(["Host", target.form === "path" ? `localhost:${target.port}` : host]);
  list.push(["X-Forwarded-For", request.socket.remoteAddress ?? "127.0.0.1"]);
  list.push(["X-Forwarded-Host", host], ["X-Forwarded-Proto", secure ? "https" : "http"]);
  if (target.prefix !== "") list.push(["X-Forwarded-Prefix", target.prefix]);
  if (!hasBody) {
    // Its method alone might have Node announce one.
    if (!["GET", "HEAD", "OPTIONS", "DELETE"].includes(request.method ?? "")) {
      return [...list.filter(([name]) => name.toLowerCase() !== "content-length"), ["Content-Length", "0"]];
    }
  } else if (request.headers["content-length"] === undefined) {
    list.push(["Transfer-Encoding", "chunked"]);
  }
  return list;
}

/** What an answer says to the client: nothing that reaches beyond the port that it comes from. */
export function answerHeaders(answer: IncomingMessage, target: PreviewTarget): HeaderList {
  const dropped = droppedBy(answer.headers.connection);
  const list = listOf(answer.rawHeaders).flatMap(([name, value]): HeaderList => {
    const lower = name.toLowerCase();
    if (dropped.has(lower) || farReaching.includes(lower)) return [];
    if (target.form === "path") {
      if (ofOrigin.includes(lower) || lower.startsWith("access-control-")) return [];
      return lower === "location" ? [[name, withPrefix(value, target)]] : [[name, value]];
    }
    if (lower !== "set-cookie") return [[name, value]];
    return isOurs(value.split("=", 1)[0]?.trim() ?? "") ? [] : [[name, hostOnly(value)]];
  });
  if (target.form === "path") {
    list.push(["Content-Security-Policy", PAGE_POLICY], ["X-Content-Type-Options", "nosniff"]);
  }
  return list;
}

/** A cookie of this name alone: with a Domain it would be sent to other sandboxes' ports. */
function hostOnly(cookie: string): string {
  return cookie
    .split(";")
    .filter((part, i) => i === 0 || !/^\s*domain\s*(=|$)/i.test(part))
    .join(";");
}

/** A redirect within the port, as a path of ours. */
function withPrefix(location: string, { prefix, port }: PreviewTarget): string {
  const own = new RegExp(`^https?://(localhost|127\\.0\\.0\\.1|\\[::1\\]):${port}(?=/|$)`, "i");
  const path = location.replace(own, "");
  if (path === "" || /^\/(?![/\\])/.test(path)) return prefix + (path || "/");
  return location;
}

function isOurs(cookie: string): boolean {
  return /^(__Host-|__Secure-)?warren-preview$/i.test(cookie);
}

function droppedBy(connection: string | undefined): Set<string> {
  const named = (connection ?? "").split(",").map((name) => name.trim().toLowerCase());
  return new Set([...ofConnection, ...named]);
}

function listOf(raw: readonly string[]): HeaderList {
  const list: HeaderList = [];
  for (let i = 0; i + 1 < raw.length; i += 2) list.push([raw[i] ?? "", raw[i + 1] ?? ""]);
  return list;
}
