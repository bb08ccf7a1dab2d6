import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { type ProcessIdentity, type ProcessStat, readProcess } from "../../lib/processes.ts";

/** Processes of this host whose command line begins with `marker`: the bwrap of one sandbox and what it forked. */
export function findMarked(marker: string): ProcessIdentity[] {
  return allPids().flatMap((pid) => {
    try {
      const [name] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
      const found = name === marker ? readProcess(pid) : undefined;
      return found ? [found] : [];
    } catch {
      return []; // it ended while we looked
    }
  });
}

/** The processes that these have started and that have not ended. */
export function childrenOf(parents: readonly ProcessIdentity[]): ProcessIdentity[] {
  return allPids().flatMap((pid) => {
    const found = readProcess(pid);
    return found && parents.some((parent) => parent.pid === found.parent) ? [found] : [];
  });
}

/** Everything that runs in the same pid namespace as this process. */
export function processesBeside(pid: number): ProcessStat[] {
  const namespace = pidNamespace(pid);
  if (namespace === undefined) return [];
  return allPids().flatMap((other) => {
    const found = pidNamespace(other) === namespace ? readProcess(other) : undefined;
    return found ? [found] : [];
  });
}

function allPids(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

function pidNamespace(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/pid`);
  } catch {
    return undefined; // ended, or not ours to look at
  }
}
