import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "../../src/lib/log.ts";
import {
  createServer,
  type ServerOptions,
  type TcpListener,
  type TcpOptions,
  type WarrenServer,
} from "../../src/server/server.ts";
import { createHostApi, type HostApi } from "./host-api.ts";

export interface Served extends AsyncDisposable {
  api: HostApi;
  server: WarrenServer;
  tcp: TcpListener;
  url: string;
  port: number;
  socketPath: string;
}

/** A real server in front of the host API, on a free port and a Unix socket, until disposed. */
export async function serve(
  options: Partial<ServerOptions> = {},
  listen: Partial<TcpOptions> = {},
): Promise<Served> {
  const api = createHostApi();
  const server = createServer(api, { log: silentLogger, ...options });
  const folder = await mkdtemp(join(tmpdir(), "warren-server-"));
  const socketPath = join(folder, "engine.sock");
  const tcp = await server.listenTcp({ host: "127.0.0.1", port: 0, ...listen });
  const { url } = tcp;
  await server.listenUnix(socketPath);
  return {
    api,
    server,
    tcp,
    url,
    port: Number(new URL(url).port),
    socketPath,
    async [Symbol.asyncDispose]() {
      await server.close();
      for (const child of api.running) child.kill("SIGKILL");
      await rm(folder, { recursive: true, force: true });
    },
  };
}
