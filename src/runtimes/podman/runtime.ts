import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { makeDir, readText } from "../../lib/files.ts";
import { capabilities as linuxCapabilities } from "../common/guest-program.ts";
import { readHardLimits } from "../common/process-limits.ts";
import { maskedPaths } from "../common/protected-paths.ts";
import { ociSeccomp } from "../common/seccomp.ts";
import { createApiClient } from "../containers/api-client.ts";
import { openContainerRuntime } from "../containers/runtime.ts";
import type { RuntimeFactory } from "../factory.ts";
import { podmanCapabilities } from "./capabilities.ts";
import { startService } from "./service.ts";

export const openPodmanRuntime: RuntimeFactory = async ({ stateDir, ownerId, log }) => {
  const dir = join(stateDir, "podman");
  const service = await startService(dir);
  await makeDir(dir, 0o700).catch(() => {});
  const seccomp = join(dir, "seccomp.json");
  await writeFile(seccomp, JSON.stringify(ociSeccomp(linuxCapabilities)), { mode: 0o600 });
  return openContainerRuntime({
    stateDir,
    ownerId,
    log,
    flavor: {
      name: "podman",
      client: createApiClient(service.endpoint),
      capabilities: podmanCapabilities,
      seccomp,
      securityOptions: [`mask=${maskedPaths.join(":")}`],
      rlimits: await rlimits(),
      probe: async () => ({ runtime: "podman", usable: true, findings: [] }),
      close: service.close,
    },
  });
};

/** Open files of a process inside, where our own limit isn't lower: enough for any build tool. */
const MAX_OPEN_FILES = 65_536;

/** Podman's own defaults are above what it may give where we have no CAP_SYS_RESOURCE, so both must be told. */
async function rlimits(): Promise<Record<string, number>> {
  const [hard, pidMax] = await Promise.all([readHardLimits(), readText("/proc/sys/kernel/pid_max")]);
  return {
    nofile: Math.min(hard.openFiles, MAX_OPEN_FILES),
    // Podman lowers its own to the number of process ids. How many a sandbox may have is its cgroup's affair.
    nproc: Math.min(hard.processes, Number(pidMax)),
    // Exactly 1 byte also stops the kernel from piping a dump to a handler on the host (core(5)); 0 does not.
    core: Math.min(hard.core, 1),
  };
}
