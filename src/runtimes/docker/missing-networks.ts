import { probeGuard } from "../common/open-network.ts";
import { type ApiClient, EngineRefusal, engineFailure } from "../containers/api-client.ts";
import type { MissingNetworks } from "../containers/networks.ts";
import type { Daemon } from "./daemon.ts";

/** Of a daemon on this machine. */
export async function missingNetworks(client: ApiClient, daemon: Daemon): Promise<MissingNetworks> {
  const open = daemon.isPodman
    ? { why: "Podman speaks here", fix: "use the runtime podman" }
    : ((await probeGuard()) ?? (await missingBridge(client)));
  return {
    ...(open ? { open } : {}),
    ...(daemon.hasUserNamespace
      ? { host: { why: "a daemon with user namespaces can't give a container the machine's network" } }
      : {}),
  };
}

async function missingBridge(client: ApiClient): Promise<{ why: string; fix: string } | undefined> {
  try {
    await client.json({ path: "/networks/bridge" });
    return undefined;
  } catch (error) {
    if (error instanceof EngineRefusal && error.status === 404) {
      return {
        why: "the Docker daemon has no network bridge",
        fix: 'take "bridge": "none" out of /etc/docker/daemon.json',
      };
    }
    throw engineFailure(error, "the Docker daemon does not say which networks it has");
  }
}
