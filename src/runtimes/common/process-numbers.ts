import { readdir, readlink } from "node:fs/promises";
import type { RuntimeStats } from "../../contracts/runtime.ts";
import { readText } from "../../lib/files.ts";
import { type ProcessStat, readProcess } from "../../lib/processes.ts";

/** Clock ticks of /proc per second: USER_HZ, 100 on every architecture that we run on. */
const NS_PER_TICK = 1e9 / 100;
/** A sandbox whose processes come and go faster than they can be looked at is told of as well as it can. */
const MOST_WALKS = 5;

type Numbers = Omit<RuntimeStats, "network_rx" | "network_tx">;

/**
 * What the processes of a sandbox use, added up from /proc, for hosts where it has no cgroup. What ended without anybody
 * waiting for it, and what the disk did, isn't in it.
 */
export async function processNumbers(guest: number): Promise<Numbers> {
  const total = {
    cpuTotalNs: 0,
    memory_usage: 0,
    memory_limit: 0,
    pid_count: 0,
    disk_read: 0,
    disk_write: 0,
    oomKills: 0,
  };
  const namespace = await pidNamespace(guest);
  if (namespace === undefined) return total;
  for (const { pid, cpuTicks } of await membersOf(namespace)) {
    const status = (await readText(`/proc/${pid}/status`).catch(() => undefined)) ?? "";
    const number = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+)`, "m").exec(status)?.[1] ?? 0);
    total.cpuTotalNs += cpuTicks * NS_PER_TICK;
    total.memory_usage += (number("RssAnon") + number("RssShmem")) * 1024;
    total.pid_count += number("Threads");
  }
  return total;
}

/**
 * All processes of a pid namespace, at one instant as far as their time goes: one that ends while we look is found neither
 * in its parent, which we have read, nor itself, so then we look again.
 */
async function membersOf(namespace: string): Promise<ProcessStat[]> {
  for (let walk = 1; ; walk++) {
    const members: ProcessStat[] = [];
    for (const name of await readdir("/proc")) {
      if (!/^\d+$/.test(name) || (await pidNamespace(Number(name))) !== namespace) continue;
      const found = readProcess(Number(name));
      if (found) members.push(found);
    }
    // All in one go now: others may have waited for some in between.
    const now = members.map(({ pid }) => readProcess(pid));
    const stayed = now.filter((found, i) => found?.startTime === members[i]?.startTime);
    if (stayed.length === members.length || walk === MOST_WALKS)
      return stayed.filter((found) => found !== undefined);
  }
}

/** Undefined when it is gone, or of somebody whose processes we may not look at. */
function pidNamespace(pid: number): Promise<string | undefined> {
  return readlink(`/proc/${pid}/ns/pid`).catch(() => undefined);
}
