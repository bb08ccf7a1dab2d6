import { randomBytes } from "node:crypto";
import { mkdir, mkdtemp, realpath, rm } from "node:fs/promises";
import { isIP } from "node:net";
import { join } from "node:path";
import { type ApiClient, EngineRefusal, engineFailure } from "../containers/api-client.ts";
import type { ReachKind } from "../containers/reach.ts";
import type { Daemon } from "./daemon.ts";

/** @throws WarrenError when the daemon does not answer */
export async function findReach(client: ApiClient, daemon: Daemon, stateDir: string): Promise<ReachKind> {
  const { endpoint } = client;
  const isNear = endpoint.kind === "unix" || (endpoint.kind === "tcp" && isLoopback(endpoint.host));
  // Docker Desktop's machine has our files, but no sockets among them.
  if (!isNear || daemon.isDesktop) return "exec";
  return (await seesOurFiles(client, stateDir)) ? "socket" : "exec";
}

/**
 * Asks for a container that can't be: a daemon looks for what is to be mounted before it looks for the image. It may be in a virtual
 * machine, or we in a container that its socket was mounted into.
 */
async function seesOurFiles(client: ApiClient, stateDir: string): Promise<boolean> {
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  const dir = await mkdtemp(join(await realpath(stateDir), "reach-"));
  try {
    await client.json({
      method: "POST",
      path: "/containers/create",
      body: {
        Image: `warren-none-${randomBytes(16).toString("hex")}`,
        HostConfig: { Mounts: [{ Type: "bind", Source: dir, Target: "/reach", ReadOnly: true }] },
      },
    });
    return false;
  } catch (error) {
    if (error instanceof EngineRefusal && error.status === 404) return true;
    if (error instanceof EngineRefusal && error.status === 400) return false;
    throw engineFailure(error, "the Docker daemon does not say whether it sees our files");
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
}
