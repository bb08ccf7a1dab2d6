import { existsSync } from "node:fs";
import { join } from "node:path";
import type { RuntimeLimits, RuntimeSpec } from "../../contracts/runtime.ts";
import type { CgroupHost, Cgroups, Limit } from "./cgroup.ts";
import { cpuValues } from "./cpu-limit.ts";

/** Cgroups that the launcher makes below the sandbox's own. */
export interface LauncherGroups {
  /** To make, outer ones first; there already is success. */
  dirs: string[];
  /** Files that the guest inherits opened for writing, as descriptors 4 and 5; two at most. */
  handed: string[];
  /** Two `cgroup.procs`: the guest inherits the second after those of `handed`, and moves itself there from the first. */
  leave?: { from: string; to: string };
  /** File and value, in this order; once `from` has no members, or before the start where nobody leaves. */
  writes: (readonly [file: string, value: string])[];
}

/**
 * The cgroups of one sandbox below the one that crun and runc make, whose limits hold for commands and not for the
 * guest: it answers at once when they are used up. docs/runtimes/oci.md has the picture, and
 * native/guest/group.c the other half.
 */
export interface PayloadGroups {
  /** What the launcher makes at a start. Undefined where the guest has to share the limits. */
  plan(id: string, spec: Limited): GroupPlan | undefined;
  /** True for a sandbox that was started with a limit of this kind for commands. */
  exist(controller: Limit, id: string): boolean;
  /** A file of the cgroup that limits commands in this way. */
  file(controller: Limit, id: string, name: string): string;
}

/** What limits depend on. */
export type Limited = Pick<RuntimeSpec, "limits" | "network">;

export interface GroupPlan extends LauncherGroups {
  /** Of the guest: which of the descriptors that it inherits is which. */
  guestArgs: string[];
  /** Of the group that crun and runc make. */
  outer: RuntimeLimits;
}

const MIB = 1024 ** 2;

/** What the guest may use beside its commands, so that it does not starve, and a guest that was taken over does not flood. */
const GUEST_CPU_NANO = 1e9;
/** One process per connection and one per command; the engine runs 64 commands at a time in a sandbox. */
export const GUEST_PIDS = 256;
/** What open network takes beside it: its keeper, the stack, and buffers of connections: with 4000 of them slirp4netns takes 77 MiB. */
const UPLINK_PIDS = 4;
const UPLINK_MEMORY_BYTES = 96 * MIB;
/**
 * Of memory: a command that starts takes a third of a MiB, node 8. What commands took before they were limited stays counted
 * here, so it is little beside the limit.
 */
export function guestMemoryBytes(limit: number): number {
  return Math.min(16 * MIB, Math.max(4 * MIB, Math.floor(limit / 32)));
}

/** The guest's descriptors from here on are `handed`; 3 is its socket. */
export const FIRST_HANDED_FD = 4;

export function createPayloadGroups(host: CgroupHost, cgroups: Pick<Cgroups, "file">): PayloadGroups {
  const isV2 = host.version === 2;
  const has = (controller: Limit) =>
    host.limits.includes(controller) && (controller !== "memory" || host.memoryNests);
  // v1 has a hierarchy for each. In the one of v2, what is short of processor time is also one of the processes.
  const first = "payload";
  const limited = isV2 ? "payload/limited" : "limited";
  const dir = (controller: Limit, id: string, below = "") =>
    join(cgroups.file(controller, id, "cgroup.procs"), "..", below);

  const planV1 = (id: string, spec: Limited): GroupPlan => {
    const groups: GroupPlan = { dirs: [], handed: [], writes: [], guestArgs: [], outer: outer(spec) };
    for (const [controller, name, option] of [
      ["pids", first, "--group-first"],
      ["cpu", limited, "--group-limited"],
      ["memory", limited, "--group-limited"],
    ] as const) {
      if (!has(controller)) continue;
      const group = dir(controller, id, name);
      groups.dirs.push(join(group, "../.."), join(group, ".."), group);
      groups.guestArgs.push(option, String(FIRST_HANDED_FD + groups.handed.length));
      groups.handed.push(join(group, "cgroup.procs"));
    }
    groups.writes.push(...writes(id, spec.limits));
    return groups;
  };

  const planV2 = (id: string, spec: Limited): GroupPlan => {
    const root = dir("pids", id);
    const at = (name: string) => join(root, name);
    const enable = (...controllers: Limit[]) =>
      controllers
        .filter(has)
        .map((name) => `+${name}`)
        .join(" ");
    return {
      dirs: [join(root, ".."), root, ...["guest", "payload", "payload/first", "payload/limited"].map(at)],
      handed: [at("payload/first/cgroup.procs"), at("payload/limited/cgroup.procs")],
      guestArgs: ["--group-first", "--group-limited", "--group-own"].flatMap((option, i) => [
        option,
        String(FIRST_HANDED_FD + i),
      ]),
      // Groups that limit others have no members: the guest moves down.
      leave: { from: at("cgroup.procs"), to: at("guest/cgroup.procs") },
      writes: [
        [at("cgroup.subtree_control"), enable("cpu", "memory", "pids")],
        [at("payload/cgroup.subtree_control"), enable("cpu", "memory")],
        ...writes(id, spec.limits),
      ],
      outer: outer(spec),
    };
  };

  const file = (controller: Limit, id: string, name: string) =>
    join(dir(controller, id, controller === "pids" ? first : limited), name);

  const writes = (
    id: string,
    { memoryBytes, pids, cpuNano }: RuntimeLimits,
  ): (readonly [string, string])[] => [
    ...(has("pids") && pids > 0 ? [[file("pids", id, "pids.max"), payloadPids(pids)] as const] : []),
    ...(has("cpu") && cpuNano > 0 ? cpuWrites(id, cpuNano) : []),
    ...(has("memory") && memoryBytes > 0 ? memoryWrites(id, memoryBytes) : []),
  ];

  const cpuWrites = (id: string, cpuNano: number) =>
    cpuValues(host.version, cpuNano).map(([name, value]) => [file("cpu", id, name), value] as const);

  const memoryWrites = (id: string, bytes: number) => {
    const names = [isV2 ? "memory.max" : "memory.limit_in_bytes"];
    // On v2 the sandbox's outermost group has no swap, and so has none of those in it.
    if (!isV2 && host.swapController) names.push("memory.memsw.limit_in_bytes");
    return names.map((name) => [file("memory", id, name), String(bytes)] as const);
  };

  const outer = (spec: Limited): RuntimeLimits =>
    has("memory") ? withGuest(spec) : { ...withGuest(spec), memoryBytes: spec.limits.memoryBytes };

  return {
    plan(id, spec) {
      if (!host.hasPayloadGroups) return undefined;
      return isV2 ? planV2(id, spec) : planV1(id, spec);
    },
    exist: (controller, id) =>
      has(controller) && existsSync(file(controller, id, isV2 ? `${controller}.max` : "cgroup.procs")),
    file,
  };
}

/** What commands may have of the limit of processes: PID 1 is one of them too. */
export function payloadPids(limit: number): string {
  return limit > 0 ? String(limit - 1) : "max";
}

/** The limits of the sandbox's outermost cgroup: what its commands may use, and the guest and the network beside them. */
export function withGuest({ limits, network }: Limited): RuntimeLimits {
  const { memoryBytes, cpuNano, pids } = limits;
  const hasUplink = network === "open";
  const besideMemory = guestMemoryBytes(memoryBytes) + (hasUplink ? UPLINK_MEMORY_BYTES : 0);
  const besidePids = GUEST_PIDS + (hasUplink ? UPLINK_PIDS : 0);
  return {
    ...limits,
    memoryBytes: memoryBytes > 0 ? memoryBytes + besideMemory : 0,
    cpuNano: cpuNano > 0 ? cpuNano + GUEST_CPU_NANO : 0,
    pids: pids > 0 ? pids + besidePids : 0,
  };
}
