import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { capabilities } from "../common/guest-program.ts";
import { parseHardLimits } from "../common/process-limits.ts";
import { maskedPaths } from "../common/protected-paths.ts";
import { ociSeccomp } from "../common/seccomp.ts";
import type { Flavor } from "../containers/flavor.ts";

/** Open files of a process inside, where its own limit isn't lower: enough for any build tool. */
const MAX_OPEN_FILES = 65_536;

export type Guards = Pick<Flavor, "seccomp" | "securityOptions" | "rlimits">;

/** The machine that Podman runs on, as what runs it there sees it. */
export interface PodmanMachine {
  /** Puts the filter where Podman can read it; gives the path there. */
  placeFilter(filter: string): Promise<string>;
  readFile(path: string): Promise<string>;
}

/** With the filter in `dir`, which is there. */
export function thisMachine(dir: string): PodmanMachine {
  return {
    async placeFilter(filter) {
      const path = join(dir, "seccomp.json");
      await writeFile(path, filter, { mode: 0o600 });
      return path;
    },
    readFile: (path) => readFile(path, "utf8"),
  };
}

/** What Podman is told to guard with, whichever API asks. */
export async function podmanGuards(machine: PodmanMachine): Promise<Guards> {
  const seccomp = await machine.placeFilter(JSON.stringify(ociSeccomp(capabilities)));
  return { seccomp, securityOptions: [`mask=${maskedPaths.join(":")}`], rlimits: await rlimits(machine) };
}

/** Podman's own defaults are above what it may give where it has no CAP_SYS_RESOURCE, so both must be told. */
async function rlimits(machine: PodmanMachine): Promise<Record<string, number>> {
  const [limits, pidMax] = await Promise.all(
    ["/proc/self/limits", "/proc/sys/kernel/pid_max"].map(machine.readFile),
  );
  const hard = parseHardLimits(limits ?? "");
  return {
    nofile: Math.min(hard.openFiles, MAX_OPEN_FILES),
    // Podman lowers its own to the number of process ids. How many a sandbox may have is its cgroup's affair.
    nproc: Math.min(hard.processes, Number(pidMax)),
    // Exactly 1 byte also stops the kernel from piping a dump to a handler on the host (core(5)); 0 does not.
    core: Math.min(hard.core, 1),
  };
}
