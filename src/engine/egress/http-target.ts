import type { Agent, IncomingMessage } from "node:http";
import { parseHost } from "../../lib/host-name.ts";
import { type Origin, type Refusal, refuse } from "./guard.ts";

/** Where a client's requests go, when that was settled before its first one. */
export interface Destination {
  host: string;
  port: number;
  /** Of a client whose TLS ended here: the way to that server. */
  agent?: Agent;
}

export interface Target extends Destination {
  /** Origin form. */
  path: string;
  /** Of the Host field. */
  authority: string;
}

/** Where a request to a proxy goes, or to one server as which the proxy answers (`fixed`); why nowhere. */
export function targetOf(request: IncomingMessage, fixed: Destination | undefined): Target | Refusal {
  if (countOf(request, "host") > 1) return refuse(400, "a request has one Host");
  return fixed ? originTarget(request, fixed) : absoluteTarget(request);
}

function absoluteTarget(request: IncomingMessage): Target | Refusal {
  const match = /^http:\/\/([^/?#]*)(.*)$/i.exec(request.url ?? "");
  if (!match) {
    return /^https:/i.test(request.url ?? "")
      ? refuse(400, "https goes through CONNECT")
      : refuse(400, "a proxy is asked for whole URLs");
  }
  const [, text = "", rest = ""] = match;
  const authority = parseAuthority(text);
  // User and password before the host are a way to hide where a request goes.
  if (!authority) return refuse(400, "the URL has no host that can be read");
  const { host, port = 80 } = authority;
  if (!agreesWith(request, authority, 80)) {
    return refuse(400, "Host is not the host of the URL");
  }
  return { host, port, authority: text, path: rest.startsWith("/") ? rest : `/${rest}` };
}

function originTarget(request: IncomingMessage, fixed: Destination): Target | Refusal {
  const path = request.url ?? "";
  if (!path.startsWith("/") && path !== "*") return refuse(400, "this connection leads to one server");
  const authority = request.headers.host ?? "";
  if (!sameAuthority(authority, fixed, fixed.agent ? 443 : 80))
    return refuse(403, "Host is not what this connection was made for");
  return { ...fixed, path, authority };
}

/** Whom a CONNECT asks for. */
export function connectTarget(request: IncomingMessage): { host: string; port: number } | Refusal {
  const authority = parseAuthority(request.url ?? "");
  if (!authority?.port) return refuse(400, "CONNECT needs host:port");
  const { host, port } = authority;
  if (countOf(request, "host") > 1 || !agreesWith(request, authority, port)) {
    return refuse(400, "Host is not what CONNECT asks for");
  }
  return { host, port };
}

/** `host`, `host:port`, `[v6]:port`. */
function parseAuthority(text: string): { host: string; port?: number } | undefined {
  const match = /^(\[[0-9a-fA-F:.]+\]|[^:@/?#[\]\s]+)(?::(\d{1,5}))?$/.exec(text);
  const host = match?.[1];
  if (host === undefined || !parseHost(host)) return undefined;
  if (match?.[2] === undefined) return { host };
  const port = Number(match[2]);
  return port >= 1 && port <= 65_535 ? { host, port } : undefined;
}

/** Whether Host says nothing else. Only HTTP/1.0 may leave it out, which Python's clients speak to proxies. */
function agreesWith(
  { headers, httpVersion }: IncomingMessage,
  authority: { host: string; port?: number },
  defaultPort: number,
): boolean {
  if (headers.host === undefined) return httpVersion === "1.0";
  return sameAuthority(headers.host, authority, defaultPort);
}

export function sameAuthority(
  text: string | undefined,
  { host, port }: { host: string; port?: number },
  defaultPort: number,
): boolean {
  const other = parseAuthority(text ?? "");
  if (!other) return false;
  const same = JSON.stringify(parseHost(other.host)) === JSON.stringify(parseHost(host));
  return same && (other.port ?? defaultPort) === (port ?? defaultPort);
}

export function originOf({ host, port, agent }: Destination): Origin {
  return { host, port, isSecure: agent !== undefined };
}

function countOf(request: IncomingMessage, name: string): number {
  return request.rawHeaders.filter((text, i) => i % 2 === 0 && text.toLowerCase() === name).length;
}
