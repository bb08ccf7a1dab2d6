import type { IncomingMessage } from "node:http";
import type { SandboxApi } from "../../contracts/api.ts";
import type { PreviewLink } from "../../contracts/ports.ts";
import type { Entrance } from "../gate.ts";
import { isLoopbackAddress, isLoopbackName } from "../loopback.ts";
import { PREFIX } from "../route.ts";
import { TOKEN_PARAMETER } from "./target.ts";
import type { PreviewTokens } from "./tokens.ts";

/** A domain all of whose names lead to this server. */
export interface PreviewDomain {
  domain: string;
  /** How browsers reach it, where that is not this server's own scheme and port: something stands in front of it. */
  scheme?: string;
  port?: number;
}

/** Where a listener is. */
export interface Listening {
  scheme: "http" | "https";
  address: string;
  port: number;
}

export interface LinkOptions {
  api: SandboxApi;
  tokens: PreviewTokens;
  domain: PreviewDomain | undefined;
  /** Where browsers come in; a server without a listener for them opens one. */
  listening: () => Promise<Listening>;
}

/** Names below it are this machine's for every browser (RFC 6761). */
export const LOCAL_DOMAIN = "localhost";

/** A link to a port, for who asked for it. */
export async function previewLink(
  request: IncomingMessage,
  entrance: Entrance,
  { id: wanted, port, seconds }: { id: string; port: number; seconds: number },
  { api, tokens, domain, listening }: LinkOptions,
): Promise<PreviewLink> {
  const { id } = await api.get(wanted);
  const expiresAt = Math.floor(Date.now() / 1000) + seconds;
  const token = tokens.sign(id, port, expiresAt);
  const at = await listening();
  const query = `?${TOKEN_PARAMETER}=${token}`;
  const name = `${port}-${id}`;
  return { url: origin() + query, token, expires_at: new Date(expiresAt * 1000).toISOString() };

  function origin(): string {
    if (domain) {
      const scheme = domain.scheme ?? at.scheme;
      const number = domain.scheme === undefined ? at.port : domain.port;
      return `${scheme}://${name}.${domain.domain}${portPart(scheme, number)}/`;
    }
    // As the client wrote it: that is a name of ours which it reaches.
    const asked =
      entrance === "unix" ? undefined : String(request.headers[":authority"] ?? request.headers.host ?? "");
    const isNear =
      asked === undefined ? reachesLoopback(at.address) : isLoopbackName(asked.replace(/:\d+$/, ""));
    // A certificate is of other names.
    if (isNear && at.scheme === "http") return `http://${name}.${LOCAL_DOMAIN}:${at.port}/`;
    const authority = asked ?? `${at.address.includes(":") ? `[${at.address}]` : at.address}:${at.port}`;
    return `${at.scheme}://${authority}${PREFIX}/sandboxes/${id}/preview/${port}/`;
  }
}

function reachesLoopback(address: string): boolean {
  return isLoopbackAddress(address) || address === "0.0.0.0" || address === "::";
}

function portPart(scheme: string, port: number | undefined): string {
  return port === undefined || port === (scheme === "https" ? 443 : 80) ? "" : `:${port}`;
}
