import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import { capabilities as linuxCapabilities } from "../common/guest-program.ts";
import { refuseWeaknesses } from "../common/known-weaknesses.ts";
import { maskedPaths, readonlyPaths } from "../common/protected-paths.ts";
import { ociSeccomp } from "../common/seccomp.ts";
import { createApiClient } from "../containers/api-client.ts";
import type { Flavor } from "../containers/flavor.ts";
import { elsewhere, hostNameServers, networksWithout } from "../containers/networks.ts";
import { openContainerRuntime } from "../containers/runtime.ts";
import type { RuntimeFactory } from "../factory.ts";
import { podmanGuards, thisMachine } from "../podman/guards.ts";
import { capabilitiesOf } from "./capabilities.ts";
import { type Daemon, readDaemon } from "./daemon.ts";
import { findDockerEndpoint } from "./find-endpoint.ts";
import { findReach } from "./find-reach.ts";
import { missingNetworks } from "./missing-networks.ts";
import { probeDocker, weakPrograms } from "./probe.ts";

export const openDockerRuntime: RuntimeFactory = async (options) => {
  const { stateDir, ownerId, log, strict, onStep, docker = {} } = options;
  const client = createApiClient(await findDockerEndpoint(docker));
  try {
    const daemon = await readDaemon(client);
    if (strict) for (const program of weakPrograms(daemon)) refuseWeaknesses(program);
    const reach = await findReach(client, daemon, stateDir);
    const missing = reach === "socket" ? await missingNetworks(client, daemon) : elsewhere;
    if (reach === "socket" && daemon.hasSelinux && stateDir.includes(":")) {
      throw new WarrenError(
        "runtime_unavailable",
        `Docker can't relabel ${stateDir}: there is a colon in it`,
        {
          hint: "choose another state directory (--state-dir)",
        },
      );
    }
    return await openContainerRuntime({
      stateDir,
      ownerId,
      log,
      ...(onStep === undefined ? {} : { onStep }),
      flavor: {
        name: "docker",
        client,
        reach,
        capabilities: { ...capabilitiesOf(daemon), ...networksWithout(missing, strict === true) },
        ...(missing.open ? {} : { uplink: { mode: "bridge", nameServers: hostNameServers } as const }),
        ...(await guards(daemon, join(stateDir, "docker"))),
        relabels: daemon.hasSelinux,
        hasContainerdImages: daemon.hasContainerdImages,
        probe: () => probeDocker(client),
        close: async () => {},
      },
    });
  } catch (error) {
    client.close();
    throw error;
  }
};

async function guards(
  daemon: Daemon,
  dir: string,
): Promise<Pick<Flavor, "seccomp" | "securityOptions" | "hostConfig" | "rlimits">> {
  if (daemon.isPodman) {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    return await podmanGuards(thisMachine(dir));
  }
  return {
    seccomp: JSON.stringify(ociSeccomp(linuxCapabilities)),
    // A Docker of its time masks less.
    hostConfig: { MaskedPaths: maskedPaths, ReadonlyPaths: readonlyPaths },
    // Exactly 1 byte also stops the kernel from piping a dump to a handler on the host (core(5)); 0 does not. All others are
    // the daemon's: it knows what it may give.
    rlimits: { core: 1 },
  };
}
