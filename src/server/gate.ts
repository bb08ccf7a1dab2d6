import type { IncomingMessage } from "node:http";
import { WarrenError } from "../contracts/errors.ts";
import type { ApiKeys } from "./auth.ts";
import { isLoopbackName } from "./loopback.ts";

export interface GateOptions {
  keys: ApiKeys;
  /** Origins, such as `https://app.example`, whose pages may call the API. */
  allowedOrigins: readonly string[];
  /** Values of the Host header that are taken beside the loopback ones: `name` or `name:port`. */
  allowedHosts: readonly string[];
}

/** Which way a request came in. The Unix socket's file mode is its authentication. */
export type Entrance = "tcp" | "tls" | "unix";

/**
 * Who may come in. Without API keys anything that reaches the port is let in, and a page in a browser on this machine
 * reaches it: so the Host must then be ours (DNS rebinding) and the Origin one that is trusted (forged requests).
 */
export class Gate {
  readonly #options: GateOptions;

  constructor(options: GateOptions) {
    this.#options = options;
  }

  /** Tells apart who came in, as far as it can: the key, or the way. @throws WarrenError `forbidden`, `unauthenticated`. */
  check(request: IncomingMessage, entrance: Entrance, open: boolean): string {
    if (entrance === "unix") return "unix";
    const { keys } = this.#options;
    if (!keys.required) this.#checkBrowser(request, entrance === "tls");
    return keys.required && !open ? `key ${keys.check(request)}` : "anyone";
  }

  /** The request's Origin when its pages may read our answers. */
  readableOrigin(request: IncomingMessage): string | undefined {
    const { origin } = request.headers;
    return origin !== undefined && this.#options.allowedOrigins.includes(origin) ? origin : undefined;
  }

  #checkBrowser(request: IncomingMessage, secure: boolean): void {
    const { origin } = request.headers;
    const host = hostOf(request);
    if (host === undefined || !this.#isOurHost(host, request.socket.localPort, secure)) {
      throw new WarrenError("forbidden", "this Host is not ours", {
        hint: "without API keys the server answers only to its loopback address and to allowed hosts",
      });
    }
    const own = `${secure ? "https" : "http"}://${host}`;
    if (origin !== undefined && origin !== own && this.readableOrigin(request) === undefined) {
      throw new WarrenError("forbidden", "this Origin is not allowed", {
        hint: "add it to the allowed origins of the server",
      });
    }
  }

  #isOurHost(host: string, port: number | undefined, secure: boolean): boolean {
    const wanted = host.toLowerCase();
    const split = /^(\[[0-9a-f:.]+\]|[^:[\]]+)(?::(\d{1,5}))?$/.exec(wanted);
    if (!split?.[1]) return false;
    if (this.#options.allowedHosts.some((allowed) => [wanted, split[1]].includes(allowed.toLowerCase()))) {
      return true;
    }
    return Number(split[2] ?? (secure ? 443 : 80)) === port && isLoopbackName(split[1]);
  }
}

/** HTTP/2 has a field of its own for it, which may come beside a Host header and then must say the same (RFC 9113, 8.3.1). */
function hostOf({ headers }: IncomingMessage): string | undefined {
  const authority = headers[":authority"];
  if (typeof authority !== "string") return headers.host;
  return headers.host === undefined || headers.host === authority ? authority : undefined;
}

/** CORS headers for an allowed origin: den's methods, headers and age. */
export function corsHeaders(origin: string, preflight: boolean): Record<string, string> {
  return {
    "access-control-allow-origin": origin,
    vary: "Origin",
    "access-control-expose-headers": "Content-Disposition, X-Warren-File-Info",
    ...(preflight
      ? {
          "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
          "access-control-allow-headers": "Accept, Authorization, Content-Type, X-API-Key",
          "access-control-max-age": "300",
        }
      : {}),
  };
}
