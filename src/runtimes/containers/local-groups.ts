import { accessSync, constants, readFileSync } from "node:fs";
import type { RuntimeLimits, RuntimeStats } from "../../contracts/runtime.ts";
import { readText } from "../../lib/files.ts";
import { type CgroupHost, createGroupFiles } from "../common/cgroup.ts";
import { networkBytes, type ProcessId, processId } from "../common/guest-process.ts";
import { createLiveLimits } from "../common/live-limits.ts";
import { processNumbers } from "../common/process-numbers.ts";
import type { ContainerState } from "./answers.ts";
import { GUEST_SOCKET_DIR } from "./container-config.ts";

/**
 * The containers that run on this very machine, by what its kernel says of their first process. An engine may be in a
 * virtual machine: then its process ids mean nothing here, and there is no group.
 */
export interface LocalGroups {
  /** Takes note of what the engine says of a sandbox's container; called each time that it was asked. */
  note(id: string, container: ContainerState | undefined): void;
  oomKills(id: string): number | undefined;
  /** Undefined when neither its cgroup nor its processes are of this machine. */
  stats(id: string, container: ContainerState): Promise<RuntimeStats | undefined>;
  /** True for one that has a cgroup of its own here whose limits we may change. An ordinary user may use an engine that is root. */
  mayChange(id: string): boolean;
  /** Of one that we `mayChange`; throws as `LiveLimits.apply`. */
  apply(id: string, limits: RuntimeLimits): Promise<void>;
}

interface Group {
  container: string;
  pid: number;
  /** Below the mount point of each hierarchy. */
  path: string;
}

/** Where no container can be. */
export const noLocalGroups: LocalGroups = {
  note: () => {},
  mayChange: () => false,
  oomKills: () => undefined,
  stats: async () => undefined,
  apply: async () => {},
};

export function createLocalGroups(host: CgroupHost): LocalGroups {
  const groups = new Map<string, Group>();
  const files = createGroupFiles(host, (id) => groups.get(id)?.path ?? "/nonexistent");
  // The limits of a container hold for its guest as well.
  const limits = createLiveLimits(host, files, {
    plan: () => undefined,
    exist: () => false,
    file: (controller, id, name) => files.file(controller, id, name),
  });
  return {
    note(id, container) {
      const { Id, State: { Pid: pid = 0 } = {} } = container ?? {};
      const known = groups.get(id);
      if (known && known.container === Id && known.pid === pid) return;
      groups.delete(id);
      const path = Id === undefined || pid <= 0 ? undefined : groupPath(host, pid, Id);
      if (path !== undefined && Id !== undefined) groups.set(id, { container: Id, pid, path });
    },
    oomKills: (id) => (groups.has(id) ? files.oomKills(id) : undefined),
    async stats(id, { State: { Pid: pid = 0 } }) {
      const numbers = groups.has(id)
        ? await files.stats(id)
        : (await isGuestOf(id, pid))
          ? await processNumbers(pid)
          : undefined;
      return numbers && { ...numbers, ...(await networkBytes(pid)) };
    },
    mayChange(id) {
      if (!groups.has(id)) return false;
      try {
        const limit = host.version === 1 ? "memory.limit_in_bytes" : "memory.max";
        accessSync(files.file("memory", id, limit), constants.W_OK);
        return true;
      } catch {
        return false;
      }
    },
    // The engine's network is not the sandbox's to pay for.
    apply: (id, wanted) => limits.apply(id, { limits: wanted, network: "none" }),
  };
}

/** Of a process that is in a group whose name has the container's id; its parts below that one are the engine's affair. */
function groupPath(host: CgroupHost, pid: number, container: string): string | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/cgroup`, "utf8");
  } catch {
    return undefined;
  }
  for (const line of text.split("\n")) {
    const [, controllers = "", path = ""] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (host.version === 1 ? !controllers.split(",").includes("memory") : controllers !== "") continue;
    const parts = path.split("/");
    const own = parts.findIndex((part) => part.includes(container));
    // A path that begins above what we see of the hierarchy can't be followed.
    return own < 0 || parts.includes("..") ? undefined : parts.slice(0, own + 1).join("/");
  }
  return undefined;
}

/** The guest of this sandbox, when the engine's number of it is a process of this machine. */
export async function guestProcess(
  id: string,
  { State: { Pid: pid = 0 } }: ContainerState,
): Promise<ProcessId | undefined> {
  const process = processId(pid);
  // Asked after its start: what has the number is still that one, or is refused by who is told of the start.
  return process && (await isGuestOf(id, pid)) ? process : undefined;
}

/** True for a process of this machine that has this sandbox's socket directory mounted where the guest listens. */
async function isGuestOf(id: string, pid: number): Promise<boolean> {
  if (pid <= 0) return false;
  const mounts = (await readText(`/proc/${pid}/mountinfo`).catch(() => undefined)) ?? "";
  return mounts.includes(`/${id}/run ${GUEST_SOCKET_DIR} `);
}
