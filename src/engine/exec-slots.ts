import { WarrenError } from "../contracts/errors.ts";
import type { EngineConfig } from "./config.ts";

/** Bounds how many commands run at one time, in one sandbox and in all: each costs memory and file descriptors here. */
export interface ExecSlots {
  /** Throws `rate_limited`. Disposing gives the slot back. */
  take(id: string): Disposable;
}

export function createExecSlots(config: EngineConfig): ExecSlots {
  const perSandbox = new Map<string, number>();
  let total = 0;
  return {
    take(id) {
      const mine = perSandbox.get(id) ?? 0;
      if (mine >= config.maxExecsPerSandbox) {
        throw tooMany(`sandbox ${id} already runs ${mine} commands`);
      }
      if (total >= config.maxExecs) throw tooMany(`${total} commands already run in all sandboxes`);
      perSandbox.set(id, mine + 1);
      total += 1;
      let taken = true;
      return {
        [Symbol.dispose]() {
          if (!taken) return;
          taken = false;
          total -= 1;
          const left = (perSandbox.get(id) ?? 1) - 1;
          if (left > 0) perSandbox.set(id, left);
          else perSandbox.delete(id);
        },
      };
    },
  };
}

function tooMany(message: string): WarrenError {
  return new WarrenError("rate_limited", message, { hint: "wait until one of them has ended" });
}
