import type { WaitOptions, WaitResult } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";
import { cancelled, linkSignals, throwIfAborted } from "../lib/signals.ts";
import type { Core } from "./core.ts";
import type { SandboxRecord } from "./record.ts";
import { wireStatus } from "./states.ts";

/** Longest wait of one call, in seconds: what setTimeout takes. */
const MAX_WAIT_S = 2_147_483;

/** Resolves when a sandbox no longer runs, or the time is up. Any number may wait, and none holds anything up. */
export async function waitForEnd(core: Core, wanted: string, options: WaitOptions): Promise<WaitResult> {
  const { timeoutS, signal } = options;
  if (timeoutS !== undefined && !(timeoutS >= 0 && timeoutS <= MAX_WAIT_S)) {
    throw new WarrenError("invalid_request", `timeout: must be 0 to ${MAX_WAIT_S} seconds`);
  }
  throwIfAborted(signal);
  const { id } = core.table.resolve(wanted);
  // What is being created can't be told from outside until it has come to run.
  if (core.table.get(id)?.state === "creating") await core.mutex.run(id, async () => {});
  using either = linkSignals(signal, core.closing);
  return await new Promise<WaitResult>((resolve, reject) => {
    let timer: NodeJS.Timeout | undefined;
    const release = () => {
      clearTimeout(timer);
      unsubscribe();
      either.signal.removeEventListener("abort", giveUp);
    };
    const settle = (result: WaitResult) => {
      release();
      resolve(result);
    };
    const giveUp = () => {
      release();
      reject(core.closing.aborted ? core.closing.reason : cancelled(signal));
    };
    const look = () => {
      const record = core.table.get(id);
      if (!record) settle({ exit_code: null, status: "stopped" });
      else if (hasEnded(record)) settle(resultOf(record));
    };
    const unsubscribe = core.events.subscribe((event) => {
      if (event.sandbox.id === id) look();
    });
    either.signal.addEventListener("abort", giveUp, { once: true });
    if (timeoutS !== undefined) {
      timer = setTimeout(() => {
        const record = core.table.get(id);
        settle(record ? resultOf(record) : { exit_code: null, status: "stopped" });
      }, timeoutS * 1000);
    }
    if (either.signal.aborted) giveUp();
    else look();
  });
}

/** A sandbox in error that still has a process lives: only its guest does not answer. */
function hasEnded({ state, pid }: SandboxRecord): boolean {
  return state === "stopped" || (state === "error" && pid === undefined);
}

function resultOf(record: SandboxRecord): WaitResult {
  return { exit_code: record.exitCode ?? null, status: wireStatus[record.state] };
}
