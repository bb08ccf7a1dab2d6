import { WarrenError } from "../../contracts/errors.ts";
import type { RuntimeLimits } from "../../contracts/runtime.ts";
import { readText, writeExisting } from "../../lib/files.ts";
import { formatBytes } from "../../lib/units.ts";
import type { CgroupHost, Cgroups } from "./cgroup.ts";
import { cpuValues } from "./cpu-limit.ts";
import { type Limited, type PayloadGroups, payloadPids, withGuest } from "./payload-groups.ts";

/** Changes the limits of a sandbox that runs, by the files of its cgroup. */
export interface LiveLimits {
  /** Throws `sandbox_wrong_state` for less memory than is in use; what was changed before is left for the caller to undo. */
  apply(id: string, spec: Limited): Promise<void>;
  /** The soft limit alone, which a container runtime's configuration can't say for both versions of cgroups. */
  applyMemoryHigh(id: string, limits: RuntimeLimits): Promise<void>;
}

/** Path of a file of one cgroup. */
type PathOf = (name: string) => string;
/** Bytes, where they are more than the limit that was to be set; it is as it was then. */
type InUse = number | undefined;

export function createLiveLimits(
  host: CgroupHost,
  cgroups: Pick<Cgroups, "file">,
  payload: PayloadGroups,
): LiveLimits {
  const isV2 = host.version === 2;
  const has = (limit: CgroupHost["limits"][number]) => host.limits.includes(limit);
  const write = (controller: string, id: string, name: string, value: number | string) =>
    writeExisting(cgroups.file(controller, id, name), String(value));

  /** Neither may pass the other on the way: up, the sum with swap goes first; down, memory does. */
  const setMemoryV1 = async (path: PathOf, bytes: number): Promise<InUse> => {
    const value = String(bytes || -1);
    const limit = () => writeExisting(path("memory.limit_in_bytes"), value);
    const withSwap = () =>
      host.swapController ? writeExisting(path("memory.memsw.limit_in_bytes"), value) : Promise.resolve();
    const isRaised = bytes === 0 || bytes > Number(await readText(path("memory.limit_in_bytes")));
    try {
      if (isRaised) await withSwap();
      await limit();
      if (!isRaised) await withSwap();
      return undefined;
    } catch (error) {
      // The kernel has tried to take pages back, and could not.
      if ((error as NodeJS.ErrnoException).code !== "EBUSY") throw error;
      return Number(await readText(path("memory.usage_in_bytes")));
    }
  };

  /** Here the kernel would kill processes until the rest fits, so what can't be taken back is counted first. */
  const setMemoryV2 = async (path: PathOf, bytes: number): Promise<InUse> => {
    if (bytes > 0) {
      const stat = (await readText(path("memory.stat"))) ?? "";
      const amount = (name: string) => Number(new RegExp(`^${name} (\\d+)$`, "m").exec(stat)?.[1] ?? 0);
      const droppable = amount("active_file") + amount("inactive_file") + amount("slab_reclaimable");
      const used = Number(await readText(path("memory.current"))) - droppable;
      if (used > bytes) return used;
    }
    await writeExisting(path("memory.max"), String(bytes || "max"));
    // Memory and swap together are what was asked for: no swap beside it.
    await writeExisting(path("memory.swap.max"), bytes > 0 ? "0" : "max").catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error; // a kernel without swap
    });
    return undefined;
  };

  const ofSandbox =
    (id: string): PathOf =>
    (name) =>
      cgroups.file("memory", id, name);
  const ofCommands = (id: string): PathOf =>
    payload.exist("memory", id) ? (name) => payload.file("memory", id, name) : ofSandbox(id);

  const memory = async (id: string, spec: Limited): Promise<void> => {
    const { limits } = spec;
    const groups: [PathOf, RuntimeLimits][] = payload.exist("memory", id)
      ? [
          [ofCommands(id), limits],
          [ofSandbox(id), withGuest(spec)],
        ]
      : [[ofSandbox(id), limits]];
    for (const [path, { memoryBytes }] of groups) {
      const used = await (isV2 ? setMemoryV2 : setMemoryV1)(path, memoryBytes);
      if (used !== undefined) throw tooLittle(id, limits.memoryBytes, used);
    }
  };

  const applyMemoryHigh = async (id: string, { memoryHighBytes = 0 }: RuntimeLimits): Promise<void> => {
    const path = ofCommands(id);
    if (isV2) await writeExisting(path("memory.high"), String(memoryHighBytes || "max"));
    else await writeExisting(path("memory.soft_limit_in_bytes"), String(memoryHighBytes || -1));
  };

  const cpu = async (id: string, spec: Limited): Promise<void> => {
    const { limits } = spec;
    const set = async (path: (name: string) => string, cpuNano: number) => {
      for (const [name, value] of cpuValues(host.version, cpuNano)) await writeExisting(path(name), value);
    };
    const own = (name: string) => cgroups.file("cpu", id, name);
    if (!payload.exist("cpu", id)) return await set(own, limits.cpuNano);
    const below = (name: string) => payload.file("cpu", id, name);
    // A group may have no higher quota than the one that it is in (v1), and without a quota has that one's.
    await set(below, 0);
    await set(own, withGuest(spec).cpuNano);
    await set(below, limits.cpuNano);
  };

  const pids = async (id: string, spec: Limited): Promise<void> => {
    const { limits } = spec;
    const value = (of: RuntimeLimits) => of.pids || "max";
    if (!payload.exist("pids", id)) return await write("pids", id, "pids.max", value(limits));
    await write("pids", id, "pids.max", value(withGuest(spec)));
    await writeExisting(payload.file("pids", id, "pids.max"), payloadPids(limits.pids));
  };

  return {
    async apply(id, spec) {
      if (has("memory")) {
        await memory(id, spec);
        await applyMemoryHigh(id, spec.limits);
      }
      if (has("cpu")) await cpu(id, spec);
      if (has("pids")) await pids(id, spec);
    },
    applyMemoryHigh,
  };
}

function tooLittle(id: string, bytes: number, used: number): WarrenError {
  return new WarrenError(
    "sandbox_wrong_state",
    `memory: sandbox ${id} uses ${formatBytes(used)} now, which ${formatBytes(bytes)} can't hold`,
    { hint: "end some of its processes, or give it more" },
  );
}
