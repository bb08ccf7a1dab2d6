import { readFileSync } from "node:fs";
import type { RuntimeStats } from "../../contracts/runtime.ts";
import { processesBeside } from "./processes.ts";

/** USER_HZ, in which /proc counts time: 100 on every architecture that Node runs on. */
const TICK_NS = 1e9 / 100;
const PAGE_BYTES = 4096;

/** There is no cgroup: the sums of what the sandbox's processes say of themselves. Memory that they share counts twice. */
export function readStats(guestPid: number): RuntimeStats {
  const stats: RuntimeStats = {
    memory_usage: 0,
    memory_limit: 0,
    network_rx: 0,
    network_tx: 0,
    disk_read: 0,
    disk_write: 0,
    pid_count: 0,
    cpuTotalNs: 0,
    oomKills: 0,
  };
  for (const { pid, cpuTicks } of processesBeside(guestPid)) {
    stats.pid_count += 1;
    stats.cpuTotalNs += cpuTicks * TICK_NS;
    const pages = Number(read(`/proc/${pid}/statm`).split(" ")[1]);
    if (pages > 0) stats.memory_usage += pages * PAGE_BYTES;
    const io = read(`/proc/${pid}/io`);
    stats.disk_read += Number(/^read_bytes: (\d+)/m.exec(io)?.[1] ?? 0);
    stats.disk_write += Number(/^write_bytes: (\d+)/m.exec(io)?.[1] ?? 0);
  }
  for (const line of read(`/proc/${guestPid}/net/dev`).split("\n").slice(2)) {
    const [name, rest] = line.split(":");
    const fields = rest?.trim().split(/\s+/).map(Number);
    if (!fields || name?.trim() === "lo") continue;
    stats.network_rx += fields[0] ?? 0;
    stats.network_tx += fields[8] ?? 0;
  }
  return stats;
}

/** Empty when the process has ended meanwhile. */
function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
