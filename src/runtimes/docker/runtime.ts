import { capabilities as linuxCapabilities } from "../common/guest-program.ts";
import { refuseWeaknesses } from "../common/known-weaknesses.ts";
import { ociSeccomp } from "../common/seccomp.ts";
import { createApiClient } from "../containers/api-client.ts";
import { openContainerRuntime } from "../containers/runtime.ts";
import type { RuntimeFactory } from "../factory.ts";
import { capabilitiesOf } from "./capabilities.ts";
import { readDaemon } from "./daemon.ts";
import { findDockerEndpoint } from "./find-endpoint.ts";
import { probeDocker, weakPrograms } from "./probe.ts";

/** No core file, and no crash handler of the host is fed. The daemon's own limits hold beside it. */
const rlimits = { core: 1 };

/** @throws WarrenError `runtime_unavailable` when no daemon can be used */
export const openDockerRuntime: RuntimeFactory = async (options) => {
  const { stateDir, ownerId, log, strict, docker = {} } = options;
  const client = createApiClient(await findDockerEndpoint(docker));
  try {
    const daemon = await readDaemon(client);
    if (strict) for (const program of weakPrograms(daemon)) refuseWeaknesses(program);
    const seccomp = JSON.stringify(ociSeccomp(linuxCapabilities));
    return await openContainerRuntime({
      stateDir,
      ownerId,
      log,
      flavor: {
        name: "docker",
        client,
        capabilities: capabilitiesOf(daemon),
        seccomp,
        rlimits,
        probe: () => probeDocker(client),
        close: async () => {},
      },
    });
  } catch (error) {
    client.close();
    throw error;
  }
};
