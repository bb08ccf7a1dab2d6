import { readFileSync } from "node:fs";
import { readdir, readFile, rmdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { WarrenError } from "../../contracts/errors.ts";
import type { RuntimeSpec, RuntimeStats } from "../../contracts/runtime.ts";
import { isGone, readText } from "../../lib/files.ts";
import { isSandboxId } from "./sandbox-id.ts";

export type Limit = "memory" | "cpu" | "pids";

/** The host's cgroup mounts, as far as sandboxes are concerned. */
export interface CgroupHost {
  version: 1 | 2;
  /** Limits whose controllers are there. */
  limits: Limit[];
  /** False where memory is limited but swap can't be, and there is swap: such a limit would not hold. */
  swapLimited: boolean;
  /** True when memory.memsw (v1) or memory.swap (v2) exists. */
  swapController: boolean;
  /** Mount points of all hierarchies, the unified one included. */
  mounts: string[];
  /** v1: mount point by controller. */
  byController: Map<string, string>;
  /** False where a group's memory does not count as that of the one that it is in: cgroup v1 before Linux 5.11, mostly. */
  memoryNests: boolean;
  /** True where a sandbox's commands can have limits of their own, which the guest is not under. */
  hasPayloadGroups: boolean;
  /** Path in each hierarchy below which we may make groups. Absent: its root. */
  base?: string;
  /** Why a limit can't be enforced that this host's kernel has, and the command that mends it. */
  refusal?: { why: string; fix: string };
}

/** How long members that were killed may take to leave their cgroup: exiting with much memory takes the kernel a while. */
const EMPTY_TIMEOUT_MS = 5_000;

export async function readCgroupHost(): Promise<CgroupHost> {
  const mountinfo = await readFile("/proc/self/mountinfo", "utf8");
  const byController = new Map<string, string>();
  const mounts: string[] = [];
  let unified: string | undefined;
  for (const line of mountinfo.split("\n")) {
    const [left, right] = line.split(" - ");
    const mountPoint = left?.split(" ")[4];
    const [type, , options] = right?.split(" ") ?? [];
    if (!mountPoint?.startsWith("/sys/fs/cgroup")) continue;
    if (type === "cgroup") {
      mounts.push(mountPoint);
      for (const option of options?.split(",") ?? []) byController.set(option, mountPoint);
    } else if (type === "cgroup2") {
      mounts.push(mountPoint);
      unified = mountPoint;
    }
  }
  const hasV1 = ["memory", "cpu", "pids"].some((c) => byController.has(c));
  const swaps = ((await readText("/proc/swaps")) ?? "").trim().split("\n").length > 1;
  if (hasV1 || !unified) {
    const memory = byController.get("memory");
    const swapController =
      memory !== undefined && (await readText(join(memory, "memory.memsw.limit_in_bytes"))) !== undefined;
    return {
      version: 1,
      limits: (["memory", "cpu", "pids"] as const).filter((c) => byController.has(c)),
      swapController,
      swapLimited: swapController || !swaps,
      mounts,
      byController,
      memoryNests:
        memory !== undefined && (await readText(join(memory, "memory.use_hierarchy")))?.trim() === "1",
      // The kernel lets nobody but root hand another user's process on to a group of v1.
      hasPayloadGroups: process.getuid?.() === 0,
    };
  }
  const controllers = ((await readText(join(unified, "cgroup.controllers"))) ?? "").trim().split(/\s+/);
  // The root group has no memory.swap.max to look at; kernels built without swap have nothing to limit.
  const swapController = controllers.includes("memory");
  return {
    version: 2,
    limits: (["memory", "cpu", "pids"] as const).filter((c) => controllers.includes(c)),
    swapController,
    swapLimited: true,
    mounts: [unified],
    byController,
    memoryNests: true,
    hasPayloadGroups: ["memory", "cpu", "pids"].some((name) => controllers.includes(name)),
  };
}

/** Throws `unsupported`, naming the limit, when this host can't enforce one that is asked for. */
export function checkLimits(host: CgroupHost, limits: RuntimeSpec["limits"]): void {
  const asked: [Limit, number][] = [
    ["memory", limits.memoryBytes],
    ["cpu", limits.cpuNano],
    ["pids", limits.pids],
  ];
  for (const [limit, value] of asked) {
    if (value > 0 && !host.limits.includes(limit)) {
      if (host.refusal) {
        throw new WarrenError("unsupported", `${limit}: ${host.refusal.why}`, {
          hint: `${host.refusal.fix}; or create it without limits (--unlimited)`,
        });
      }
      throw new WarrenError("unsupported", `this host can't enforce a ${limit} limit`, {
        hint: `its cgroups have no ${limit} controller; mount it below /sys/fs/cgroup, or create without this limit`,
      });
    }
  }
  if (limits.memoryBytes > 0 && !host.swapLimited) {
    throw new WarrenError("unsupported", "this host can't limit memory with swap included", {
      hint: "boot with swapaccount=1, or turn swap off",
    });
  }
}

/** What the kernel tells of a sandbox by its group. */
export interface GroupFiles {
  /** A file of the sandbox's group in the hierarchy that has this controller. */
  file(controller: string, id: string, name: string): string;
  stats(id: string): Promise<Omit<RuntimeStats, "network_rx" | "network_tx">>;
  oomKills(id: string): number | undefined;
}

export interface Cgroups extends GroupFiles {
  /** Value of linux.cgroupsPath, and what ends the path of every member in /proc/PID/cgroup. */
  path(id: string): string;
  dirs(id: string): string[];
  /** Those that all of its processes are in, one or another; not all exist. */
  memberDirs(id: string): string[];
  hasMembers(id: string): boolean;
  /** Removes the groups of a sandbox, which must have no members but dying ones. Throws `runtime_failed`. */
  remove(id: string): Promise<void>;
  /** Ids that have a group. */
  list(): Promise<string[]>;
  /** Removes the parent where it is empty. */
  removeParent(): Promise<void>;
}

/** Which file of which controller says what. */
const sourcesV1 = {
  cpu: { controller: "cpuacct", name: "cpuacct.usage", nanoseconds: (text: string) => Number(text) || 0 },
  memory: {
    usage: "memory.usage_in_bytes",
    limit: "memory.limit_in_bytes",
    droppable: "total_inactive_file",
  },
  io: { controller: "blkio", name: "blkio.throttle.io_service_bytes_recursive", parse: parseBlkio },
};
const sourcesV2: typeof sourcesV1 = {
  cpu: {
    controller: "cpu",
    name: "cpu.stat",
    nanoseconds: (text) => (parseTable(text).get("usage_usec") ?? 0) * 1000,
  },
  memory: { usage: "memory.current", limit: "memory.max", droppable: "inactive_file" },
  io: { controller: "io", name: "io.stat", parse: parseIoStat },
};

/** `pathOf`: where a sandbox's group is in each hierarchy, below the mount point. */
export function createGroupFiles(host: CgroupHost, pathOf: (id: string) => string): GroupFiles {
  const file = (controller: string, id: string, name: string) =>
    join(
      (host.version === 2 ? host.mounts[0] : host.byController.get(controller)) ?? "/nonexistent",
      pathOf(id),
      name,
    );
  const number = async (controller: string, id: string, name: string) => {
    const text = await readText(file(controller, id, name));
    const value = Number(text?.trim());
    // v1 says "no limit" as the largest multiple of the page size, v2 as `max`.
    return Number.isFinite(value) && value < 2 ** 62 ? value : 0;
  };
  /** Of commands, where they have one of their own. */
  const memoryLimit = async (id: string, name: string) => {
    const ofPayload = `${host.version === 2 ? "payload/limited" : "limited"}/${name}`;
    const isThere = (await readText(file("memory", id, ofPayload))) !== undefined;
    return await number("memory", id, isThere ? ofPayload : name);
  };

  // PID 1 and what commands are. The guest's other processes come and go with calls of the API.
  const pidCount = async (id: string) => {
    const ofPayload = await readText(file("pids", id, "payload/pids.current"));
    return ofPayload === undefined ? await number("pids", id, "pids.current") : 1 + Number(ofPayload);
  };

  const sources = host.version === 2 ? sourcesV2 : sourcesV1;
  const numbers = async (id: string) => {
    const { cpu, memory, io } = sources;
    const [cpuText, usage, limit, stat, pids, ioText] = await Promise.all([
      readText(file(cpu.controller, id, cpu.name)),
      number("memory", id, memory.usage),
      memoryLimit(id, memory.limit),
      readText(file("memory", id, "memory.stat")),
      pidCount(id),
      readText(file(io.controller, id, io.name)),
    ]);
    return {
      cpuTotalNs: cpu.nanoseconds(cpuText ?? ""),
      memory_usage: Math.max(0, usage - (parseTable(stat ?? "").get(memory.droppable) ?? 0)),
      memory_limit: limit,
      pid_count: pids,
      ...io.parse(ioText ?? ""),
    };
  };

  const oomKillsIn = (id: string, name: string): number | undefined => {
    try {
      return parseTable(readFileSync(file("memory", id, name), "utf8")).get("oom_kill");
    } catch {
      return undefined;
    }
  };
  const oomKills = (id: string): number | undefined => {
    if (host.version === 2) return oomKillsIn(id, "memory.events");
    const own = oomKillsIn(id, "memory.oom_control");
    // v1 counts a kill in the group of who was killed, and in none above.
    return own === undefined ? undefined : own + (oomKillsIn(id, "limited/memory.oom_control") ?? 0);
  };

  return {
    file,
    stats: async (id) => ({ ...(await numbers(id)), oomKills: oomKills(id) ?? 0 }),
    oomKills,
  };
}

/** The cgroups of one engine: `<base>/warren-<ownerId>/<id>` in every hierarchy that we may use. */
export function createCgroups(host: CgroupHost, ownerId: string): Cgroups {
  const parent = `${host.base ?? ""}/warren-${ownerId}`;
  const dirs = (id: string) => host.mounts.map((mount) => join(mount, parent, id));
  // Whatever a process is in below its sandbox's group of one v1 hierarchy, in the others it is in that group itself.
  const memberDirs = (id: string) =>
    host.version === 1
      ? dirs(id)
      : ["", "guest", "payload/first", "payload/limited"].flatMap((below) =>
          dirs(id).map((dir) => join(dir, below)),
        );
  const files = createGroupFiles(host, (id) => `${parent}/${id}`);

  return {
    ...files,
    path: (id) => `${parent}/${id}`,
    dirs,
    memberDirs,
    // Synchronous: the kernel answers these from memory, in less time than a trip through the thread pool.
    hasMembers(id) {
      return memberDirs(id).some((dir) => {
        try {
          return readFileSync(join(dir, "cgroup.procs"), "utf8") !== "";
        } catch {
          return false;
        }
      });
    },
    async remove(id) {
      await Promise.all(dirs(id).map((dir) => removeGroup(dir)));
    },
    async list() {
      const names = await Promise.all(host.mounts.map((mount) => childGroups(join(mount, parent))));
      return [...new Set(names.flat())].filter(isSandboxId);
    },
    async removeParent() {
      for (const mount of host.mounts) await rmdir(join(mount, parent)).catch(() => {});
    },
  };
}

async function childGroups(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch((error: unknown) => {
    if (isGone(error)) return [];
    throw error;
  });
  return entries.filter((e) => e.isDirectory()).map((e) => e.name);
}

async function removeGroup(dir: string): Promise<void> {
  const deadline = performance.now() + EMPTY_TIMEOUT_MS;
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, 50)) {
    try {
      return await rmdir(dir);
    } catch (error) {
      if (isGone(error)) return;
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== "EBUSY" && code !== "ENOTEMPTY") throw error;
      for (const child of await childGroups(dir)) await removeGroup(join(dir, child));
      if (performance.now() > deadline) {
        throw new WarrenError("runtime_failed", `the cgroup ${dir} can't be removed: it still has members`, {
          cause: error,
        });
      }
      await sleep(pauseMs);
    }
  }
}

/** `name value` per line. */
function parseTable(text: string): Map<string, number> {
  const table = new Map<string, number>();
  for (const line of text.split("\n")) {
    const [name, value] = line.split(" ");
    if (name && value) table.set(name, Number(value));
  }
  return table;
}

/** `8:0 Read 4096` per device and direction. */
function parseBlkio(text: string): { disk_read: number; disk_write: number } {
  const sum = { disk_read: 0, disk_write: 0 };
  for (const line of text.split("\n")) {
    const [, direction, bytes] = line.split(" ");
    if (direction === "Read") sum.disk_read += Number(bytes);
    if (direction === "Write") sum.disk_write += Number(bytes);
  }
  return sum;
}

/** `8:0 rbytes=4096 wbytes=0 …` per device. */
function parseIoStat(text: string): { disk_read: number; disk_write: number } {
  const total = (name: string) =>
    [...text.matchAll(new RegExp(`\\b${name}=(\\d+)`, "g"))].reduce((sum, m) => sum + Number(m[1]), 0);
  return { disk_read: total("rbytes"), disk_write: total("wbytes") };
}
