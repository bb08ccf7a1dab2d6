import type { IncomingMessage } from "node:http";
import { WarrenError } from "../../contracts/errors.ts";
import { PREFIX } from "../route.ts";

/** Which port of which sandbox a request is for, and what it asks there. */
export interface PreviewTarget {
  /** By a host name of the port's own, which is an origin of its own for browsers, or by a path of the API's. */
  form: "host" | "path";
  /** Id or name; in a host name only whole. */
  sandbox: string;
  port: number;
  /** What comes before `path` in the request: empty for `host`. */
  prefix: string;
  /** From its `/` on, as it was sent, with the query. */
  path: string;
}

/** Name of the query parameter that carries a token. */
export const TOKEN_PARAMETER = "warren_token";

const byPath = new RegExp(`^(${PREFIX}/sandboxes/([^/?]+)/preview/(\\d{1,5}))([/?].*)?$`, "s");

/**
 * What of sandboxes a request is for; undefined: nothing, so that it is the API's. `domains`: below which `PORT-SANDBOX` are host
 * names of ports.
 * @throws WarrenError `invalid_request` where Host and target disagree
 */
export function previewTarget(
  request: IncomingMessage,
  domains: readonly string[],
): PreviewTarget | undefined {
  const { host, path } = split(request);
  const named = hostTarget(host, domains);
  if (named) {
    if (path === undefined) throw mixedUp();
    return { form: "host", ...named, prefix: "", path };
  }
  const match = byPath.exec(path ?? "");
  if (!match) return undefined;
  const [, prefix = "", sandbox = "", port, rest = ""] = match;
  const number = Number(port);
  if (!isPort(number)) return undefined;
  return { form: "path", sandbox: decoded(sandbox), port: number, prefix, path: rest };
}

/** The port that a Host names, such as `3000-abcdefgh.localhost:8080`. */
function hostTarget(
  host: string,
  domains: readonly string[],
): Pick<PreviewTarget, "sandbox" | "port"> | undefined {
  const name = host.toLowerCase().replace(/:\d{1,5}$/, "");
  const domain = domains.find((one) => name.endsWith(`.${one}`));
  const label = domain === undefined ? "" : name.slice(0, -domain.length - 1);
  const match = /^(\d{1,5})-([a-z][a-z0-9-]*)$/.exec(label);
  const port = Number(match?.[1]);
  return match?.[2] !== undefined && isPort(port) ? { sandbox: match[2], port } : undefined;
}

/** The server that a request names, and the path; the latter undefined where there is none, or the two names differ. */
function split({ headers, url = "", rawHeaders }: IncomingMessage): {
  host: string;
  path: string | undefined;
} {
  const authority = headers[":authority"];
  const host = typeof authority === "string" ? authority : (headers.host ?? "");
  const named = rawHeaders.filter((text, i) => i % 2 === 0 && text.toLowerCase() === "host").length;
  const absolute = /^https?:\/\/([^/?#]*)(.*)$/is.exec(url);
  // One who is in between may go by one of two names, and we by the other (RFC 9112, 3.2).
  const agree = named <= 1 && (headers.host === undefined || headers.host === host);
  if (!absolute) return { host, path: agree && url.startsWith("/") ? url : undefined };
  const [, authorityOfUrl = "", rest = ""] = absolute;
  const path = rest.startsWith("/") ? rest : `/${rest}`;
  return { host, path: agree && authorityOfUrl.toLowerCase() === host.toLowerCase() ? path : undefined };
}

/** A token in the query, and the path without it. */
export function takeToken(path: string): { token: string | undefined; rest: string } {
  const start = path.indexOf("?");
  if (start < 0) return { token: undefined, rest: path };
  let token: string | undefined;
  const kept = path
    .slice(start + 1)
    .split("&")
    .filter((pair) => {
      const [name = "", value = ""] = pair.split("=", 2);
      if (decoded(name) !== TOKEN_PARAMETER) return true;
      token ??= decoded(value);
      return false;
    });
  const query = kept.join("&");
  return { token, rest: path.slice(0, start) + (query === "" ? "" : `?${query}`) };
}

function isPort(port: number): boolean {
  return port >= 1 && port <= 65_535;
}

function mixedUp(): WarrenError {
  return new WarrenError("invalid_request", "this request names its server twice, and not the same");
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
