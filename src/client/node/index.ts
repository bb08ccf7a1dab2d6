import type { Duplex } from "node:stream";
import type { SandboxApi, ServerApi } from "../../contracts/api.ts";
import { createClient } from "../client.ts";
import { type ConnectOptions, type SandboxHandle, sandboxEntry } from "../sandbox.ts";
import type { PackOptions } from "./pack-directory.ts";
import { defaultUrl } from "./target.ts";
import { createNodeTransport } from "./transport.ts";

export * from "../exports.ts";
export type { PackOptions } from "./pack-directory.ts";

export interface NodeClientOptions {
  /** `http://…`, `https://…` or `unix:/path`; default: `WARREN_URL`, else the socket of this user's own engine. */
  url?: string;
  /** Default: `WARREN_API_KEY`. */
  apiKey?: string;
  /** What this client is, for the server's audit log, such as `cli`. */
  client?: string;
  /**
   * PEM file with the certificates to trust for `https://`; default: `WARREN_CA_FILE`, else Node's own list with
   * `NODE_EXTRA_CA_CERTS`.
   */
  caFile?: string;
  /** Hears when the connection of a running `execStream` is lost, which then goes on as soon as there is one again. */
  onConnection?: (state: "lost" | "restored") => void;
}

export interface NodeClient extends ServerApi {
  /** A raw connection to a TCP port inside, published or not. */
  dial(id: string, port: number): Promise<Duplex>;
}

/** A client over kept connections. */
export function createNodeClient(options: NodeClientOptions = {}): NodeClient {
  const url = options.url ?? defaultUrl();
  const apiKey = options.apiKey ?? process.env.WARREN_API_KEY;
  const caFile = options.caFile ?? process.env.WARREN_CA_FILE;
  const client = createClient({
    url,
    transport: createNodeTransport(url, caFile ? { caFile } : {}),
    ...(apiKey ? { apiKey } : {}),
    ...(options.client ? { client: options.client } : {}),
    ...(options.onConnection ? { onConnection: options.onConnection } : {}),
  });
  return {
    ...client,
    async dial(id, port) {
      const { dialPort } = await import("./dial-port.ts");
      return await dialPort(url, { id, port, apiKey, caFile });
    },
  };
}

/**
 * The context of a build: a directory as a tar, without what its `.dockerignore` names. Read when it is iterated; its modules are
 * loaded then.
 */
export async function* packDirectory(path: string, options?: PackOptions): AsyncGenerator<Uint8Array> {
  const { packDirectory: read } = await import("./pack-directory.ts");
  yield* read(path, options);
}

/** One client, and so one pool of connections, for all handles of one server. */
const clients = new Map<string, SandboxApi>();

function connect({ client, url, apiKey }: ConnectOptions): SandboxApi {
  if (client) return client;
  const options = { url: url ?? defaultUrl(), apiKey: apiKey ?? process.env.WARREN_API_KEY ?? "" };
  const key = JSON.stringify(options);
  const known = clients.get(key) ?? createNodeClient(options);
  clients.set(key, known);
  return known;
}

/** Sandboxes of the server that `WARREN_URL` names, else of this user's own engine. */
export const Sandbox = sandboxEntry(connect);
export type Sandbox = SandboxHandle;
