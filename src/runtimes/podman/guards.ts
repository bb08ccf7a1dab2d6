import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { readText } from "../../lib/files.ts";
import { capabilities } from "../common/guest-program.ts";
import { readHardLimits } from "../common/process-limits.ts";
import { maskedPaths } from "../common/protected-paths.ts";
import { ociSeccomp } from "../common/seccomp.ts";
import type { Flavor } from "../containers/flavor.ts";

/** Open files of a process inside, where our own limit isn't lower: enough for any build tool. */
const MAX_OPEN_FILES = 65_536;

/** What Podman is told to guard with, whichever API asks. It reads the filter from a file in `dir`, which is there. */
export async function podmanGuards(
  dir: string,
): Promise<Pick<Flavor, "seccomp" | "securityOptions" | "rlimits">> {
  const seccomp = join(dir, "seccomp.json");
  await writeFile(seccomp, JSON.stringify(ociSeccomp(capabilities)), { mode: 0o600 });
  return { seccomp, securityOptions: [`mask=${maskedPaths.join(":")}`], rlimits: await rlimits() };
}

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
