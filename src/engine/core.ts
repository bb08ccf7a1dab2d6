import { WarrenError } from "../contracts/errors.ts";
import type { Runtime } from "../contracts/runtime.ts";
import type { SandboxInfo } from "../contracts/sandbox.ts";
import type { OnStep } from "../contracts/steps.ts";
import { createGuestClient } from "../guest/client.ts";
import type { GuestClient } from "../guest/types.ts";
import type { KeyedMutex } from "../lib/keyed-mutex.ts";
import type { Logger } from "../lib/log.ts";
import type { Clock } from "./clock.ts";
import type { EngineConfig } from "./config.ts";
import type { SandboxEventBus, sandboxEventTypes } from "./events.ts";
import { sandboxInfo } from "./info.ts";
import type { SandboxRecord } from "./record.ts";
import type { SandboxTable } from "./table.ts";

/** What the engine's parts share. */
export interface Core {
  readonly config: EngineConfig;
  readonly clock: Clock;
  readonly log: Logger;
  readonly runtimes: Readonly<Record<string, Runtime>>;
  readonly defaultRuntime: string;
  readonly table: SandboxTable;
  readonly events: SandboxEventBus;
  /** One lifecycle step at a time for each sandbox. */
  readonly mutex: KeyedMutex;
  /** Fires when the engine closes. */
  readonly closing: AbortSignal;
  readonly onStep: OnStep;
}

/** @throws WarrenError `shutting_down` once the engine closes. */
export function refuseWhenClosing(core: Core): void {
  if (core.closing.aborted) {
    throw new WarrenError("shutting_down", "the engine is shutting down", {
      hint: "start it again: warren serve",
    });
  }
}

/** @throws WarrenError `runtime_unavailable` when the sandbox belongs to a runtime that isn't configured now. */
export function runtimeOf(core: Core, record: SandboxRecord): Runtime {
  const runtime = Object.hasOwn(core.runtimes, record.runtime) ? core.runtimes[record.runtime] : undefined;
  if (runtime) return runtime;
  throw new WarrenError(
    "runtime_unavailable",
    `sandbox ${record.id} belongs to the runtime ${record.runtime}, which is not configured`,
    { hint: `start the engine with the runtime ${record.runtime}` },
  );
}

export function guestOf(core: Core, record: SandboxRecord): GuestClient {
  const runtime = runtimeOf(core, record);
  return createGuestClient(() => runtime.connect(record.id));
}

/**
 * Does something inside a running sandbox, side by side with whatever else goes on.
 * @throws WarrenError `sandbox_wrong_state` when it does not run, or stopped meanwhile.
 */
export async function inRunning<T>(
  core: Core,
  wanted: string,
  work: (guest: GuestClient, record: SandboxRecord) => Promise<T>,
): Promise<T> {
  refuseWhenClosing(core);
  const record = core.table.resolve(wanted);
  if (record.state !== "running") throw notRunning(record);
  try {
    return await work(guestOf(core, record), record);
  } catch (error) {
    const now = core.table.get(record.id);
    const lost = error instanceof WarrenError && error.code === "guest_failed";
    // A lost connection says less than why it was lost.
    if (lost && now?.state !== "running") throw notRunning(now ?? { ...record, state: "removing" });
    throw error;
  }
}

export function notRunning(record: SandboxRecord): WarrenError {
  const hints: Partial<Record<SandboxRecord["state"], string>> = {
    stopped: `start it: warren start ${record.id}`,
    paused: `let it go on: warren resume ${record.id}`,
    error: `see what happened: warren inspect ${record.id}`,
  };
  const hint = hints[record.state];
  return new WarrenError(
    "sandbox_wrong_state",
    `sandbox ${record.id} is not running: it is ${record.state === "error" ? "in error" : record.state}`,
    hint === undefined ? {} : { hint },
  );
}

/** Tells everybody of a change that is stored and done. */
export function announce(
  core: Core,
  type: (typeof sandboxEventTypes)[number],
  record: SandboxRecord,
): SandboxInfo {
  const sandbox = currentInfo(core, record);
  core.events.emit({ type, at: core.clock.now(), sandbox });
  return sandbox;
}

/** As clients see it; without its runtime nobody can tell how a sandbox is. */
export function currentInfo(core: Core, record: SandboxRecord): SandboxInfo {
  const info = sandboxInfo(record);
  if (Object.hasOwn(core.runtimes, record.runtime)) return info;
  return { ...info, status: "error", error: `the runtime ${record.runtime} is not configured` };
}

/** Failures of runtimes that aren't our own kind yet. */
export function asWarrenError(cause: unknown, what: string): WarrenError {
  return cause instanceof WarrenError ? cause : new WarrenError("runtime_failed", what, { cause });
}
