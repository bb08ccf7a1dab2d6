import type { IncomingMessage } from "node:http";
import { WarrenError } from "../../contracts/errors.ts";
import type { ApiKeys } from "../auth.ts";
import type { Entrance, Gate } from "../gate.ts";
import { isLoopbackName } from "../loopback.ts";
import type { PreviewTarget } from "./target.ts";
import type { PreviewTokens } from "./tokens.ts";

/** Name of the cookie that a browser gets for a link's token. Its prefix keeps other names of the domain from setting it. */
export function cookieName(form: PreviewTarget["form"], entrance: Entrance): string {
  return entrance === "tls" && form === "host" ? "__Host-warren-preview" : "warren-preview";
}

/** Header by which a program may send a token. */
export const TOKEN_HEADER = "x-warren-token";

export interface AccessOptions {
  keys: ApiKeys;
  gate: Gate;
  tokens: PreviewTokens;
}

/**
 * How a request was let in; `expiresAt` of a token that came with the URL, seconds since 1970; `isVisit`: perhaps by a page of another
 * origin, which must not frame what it gets.
 */
export type Access =
  | { by: "link"; token: string; expiresAt: number }
  | { by: "cookie"; isVisit: boolean }
  | { by: "other" };

/**
 * Whether a request may go to a port; `id` undefined: there is no such sandbox.
 * @throws WarrenError `unauthenticated`, `forbidden`
 */
export function admit(
  request: IncomingMessage,
  entrance: Entrance,
  { form, port }: PreviewTarget,
  id: string | undefined,
  linkToken: string | undefined,
  { keys, gate, tokens }: AccessOptions,
): Access {
  if (entrance === "unix" || keys.areIn(request)) return { by: "other" };
  const verify = (token: string) => (id === undefined ? undefined : tokens.verify(token, id, port));
  if (linkToken !== undefined) {
    const expiresAt = verify(linkToken);
    if (expiresAt !== undefined) return { by: "link", token: linkToken, expiresAt };
  }
  const header = request.headers[TOKEN_HEADER];
  if (typeof header === "string" && verify(header) !== undefined) return { by: "other" };
  const name = cookieName(form, entrance);
  const hasCookie = cookies(request).some(
    ([cookie, value]) => cookie === name && verify(value) !== undefined,
  );
  if (hasCookie) {
    // A browser sends it along whoever's page asks: pages of other origins, sandboxes' among them, may lead it here and no more.
    const asker = askerOf(request, entrance);
    if (asker === "other") throw otherPage();
    return { by: "cookie", isVisit: asker === "visit" };
  }
  if (form === "path" && !keys.required) {
    // As every route without keys; and no page but ours may ask, not even for what it could not read.
    gate.check(request, entrance, false);
    if (!isOwnPage(request)) throw otherPage();
    return { by: "other" };
  }
  throw new WarrenError(
    "unauthenticated",
    linkToken === undefined ? "this needs a link" : "this link has expired, or is for something else",
    { hint: `get one: warren preview ${id ?? "SANDBOX"} ${port}` },
  );
}

/** Who has a browser ask: a page of the port's own, or none; one that leads the browser here; any other. */
type Asker = "own" | "visit" | "other";

function askerOf(request: IncomingMessage, entrance: Entrance): Asker {
  const { method, headers } = request;
  const authority = String(headers[":authority"] ?? headers.host ?? "").toLowerCase();
  const visits = method === "GET" || method === "HEAD";
  const site = headers["sec-fetch-site"];
  // Before its Origin, which is `null` for a page that wants nobody to know where it is.
  if (site === "same-origin") return "own";
  const { origin, referer } = headers;
  if (origin !== undefined && authorityOf(origin) !== authority) return "other";
  if (site !== undefined || tellsSite(authority, entrance)) {
    if (isOwnPage(request)) return "own";
    const { "sec-fetch-mode": mode, "sec-fetch-dest": dest } = headers;
    return visits && mode === "navigate" && dest === "document" ? "visit" : "other";
  }
  if (origin !== undefined || (referer !== undefined && authorityOf(referer) === authority)) return "own";
  // What no page can have a request say that is no visit. It may be one in a frame.
  return visits && headers["upgrade-insecure-requests"] === "1" ? "visit" : "other";
}

/** Whether browsers tell this server whose page asks (Fetch Metadata): those do that nobody in between can speak for. */
function tellsSite(authority: string, entrance: Entrance): boolean {
  return entrance === "tls" || isLoopbackName(authority.replace(/:\d+$/, ""));
}

function authorityOf(url: string): string | undefined {
  return /^https?:\/\/([^/?#]*)/i.exec(url)?.[1]?.toLowerCase();
}

/** False when a browser says that a page of another origin asks. Programs say nothing. */
function isOwnPage({ headers }: IncomingMessage): boolean {
  return ["same-origin", "none", undefined].includes(headers["sec-fetch-site"] as string | undefined);
}

function otherPage(): WarrenError {
  return new WarrenError("forbidden", "a page of another origin may not use this port", {
    hint: "open it in a window of its own",
  });
}

export function cookies({ headers }: IncomingMessage): [name: string, value: string][] {
  return (headers.cookie ?? "").split(";").flatMap((pair): [string, string][] => {
    const equals = pair.indexOf("=");
    return equals < 0 ? [] : [[pair.slice(0, equals).trim(), pair.slice(equals + 1).trim()]];
  });
}
