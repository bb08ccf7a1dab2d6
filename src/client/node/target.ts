import { homedir } from "node:os";
import { join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";

/** Where a URL leads. */
export interface Target {
  tls: boolean;
  connection: { socketPath: string } | { hostname: string; port: number };
  /** Path that comes before the API's own, without a slash at its end. */
  basePath: string;
  /** PEM certificates to trust instead of Node's own. */
  ca?: string;
}

/** Parses `http://…`, `https://…` and `unix:/path`. */
export function parseTarget(url: string): Target {
  if (url.startsWith("unix:")) {
    const socketPath = url.slice("unix:".length).replace(/^\/\/(?=\/)/, "");
    if (!socketPath.startsWith("/")) throw unusable(url);
    return { tls: false, connection: { socketPath }, basePath: "" };
  }
  if (!URL.canParse(url)) throw unusable(url);
  const { protocol, hostname, port, pathname } = new URL(url);
  if (protocol !== "http:" && protocol !== "https:") throw unusable(url);
  const tls = protocol === "https:";
  return {
    tls,
    connection: {
      // The brackets of an IPv6 address belong to the URL alone.
      hostname: hostname.replace(/^\[(.*)\]$/, "$1"),
      port: port === "" ? (tls ? 443 : 80) : Number(port),
    },
    basePath: pathname.replace(/\/+$/, ""),
  };
}

/** What `tls.connect` is told beside the address. */
export function trust({ ca }: Target): { ca?: string; minVersion: "TLSv1.2" } {
  return { minVersion: "TLSv1.2", ...(ca === undefined ? {} : { ca }) };
}

/** `WARREN_URL`, else the socket of the engine whose state is where this user's is by default. */
export function defaultUrl(env: NodeJS.ProcessEnv = process.env): string {
  if (env.WARREN_URL) return env.WARREN_URL;
  return `unix:${join(defaultStateDir(env), "engine.sock")}`;
}

function defaultStateDir(env: NodeJS.ProcessEnv): string {
  if (env.WARREN_STATE_DIR) return env.WARREN_STATE_DIR;
  if (process.getuid?.() === 0) return "/var/lib/warren";
  const xdg = env.XDG_STATE_HOME;
  return join(xdg?.startsWith("/") ? xdg : join(homedir(), ".local", "state"), "warren");
}

function unusable(url: string): WarrenError {
  return new WarrenError("invalid_request", `${JSON.stringify(url)} is not a server's URL`, {
    hint: "write it as http://host:port, https://host or unix:/path/to/engine.sock",
  });
}
