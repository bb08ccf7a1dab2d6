import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { WarrenError } from "../../contracts/errors.ts";
import { isGone, readText, writeExisting } from "../../lib/files.ts";
import type { CgroupHost, Cgroups } from "../common/cgroup.ts";

/** A process that waits for a disk freezes when the disk has answered. */
const FREEZE_TIMEOUT_MS = 10_000;

/** Stops all processes of a sandbox at once and lets them go on, by its cgroup: no process can tell or resist. */
export interface Freezer {
  readonly isAvailable: boolean;
  /** True from the moment that freezing was asked for. */
  isFrozen(id: string): boolean;
  /** Throws `runtime_failed` when not all have stopped in time; then all go on. */
  freeze(id: string, timeoutMs?: number): Promise<void>;
  /** Not frozen, or gone, is success. */
  thaw(id: string): Promise<void>;
}

export function createFreezer(host: CgroupHost, cgroups: Pick<Cgroups, "file">): Freezer {
  const isV2 = host.version === 2;
  const control = (id: string) =>
    isV2 ? cgroups.file("freezer", id, "cgroup.freeze") : cgroups.file("freezer", id, "freezer.state");
  const words = isV2 ? { freeze: "1", thaw: "0" } : { freeze: "FROZEN", thaw: "THAWED" };

  /** v1: looking brings a freeze on that is still under way. */
  const allStopped = async (id: string): Promise<boolean> => {
    if (!isV2) return (await readText(control(id)))?.trim() === "FROZEN";
    const events = (await readText(cgroups.file("freezer", id, "cgroup.events"))) ?? "";
    return /^frozen 1$/m.test(events);
  };
  const thaw = async (id: string): Promise<void> => {
    try {
      await writeExisting(control(id), words.thaw);
    } catch (error) {
      if (!isGone(error)) throw error;
    }
  };

  return {
    isAvailable: isV2 ? host.mounts.length > 0 : host.byController.has("freezer"),
    isFrozen(id) {
      try {
        const state = readFileSync(control(id), "utf8").trim();
        return state !== words.thaw;
      } catch {
        return false;
      }
    },
    async freeze(id, timeoutMs = FREEZE_TIMEOUT_MS) {
      const deadline = performance.now() + timeoutMs;
      try {
        for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, 50)) {
          // Again each time: on v1 a process that was forked meanwhile may have got away.
          await writeExisting(control(id), words.freeze);
          if (await allStopped(id)) return;
          if (performance.now() > deadline) break;
          await sleep(pauseMs);
        }
      } catch (cause) {
        await thaw(id).catch(() => {});
        if (isGone(cause)) throw new WarrenError("sandbox_wrong_state", `sandbox ${id} is not running`);
        throw new WarrenError("runtime_failed", `sandbox ${id} can't be frozen`, { cause });
      }
      await thaw(id);
      throw new WarrenError("runtime_failed", `sandbox ${id} did not freeze within ${timeoutMs / 1000} s`, {
        hint: "one of its processes may wait for a disk or a network filesystem; try again later",
      });
    },
    thaw,
  };
}
