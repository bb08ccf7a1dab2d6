import { WarrenError } from "../contracts/errors.ts";
import type { sandboxEventTypes } from "../contracts/events.ts";
import type { Runtime } from "../contracts/runtime.ts";
import type { SandboxInfo } from "../contracts/sandbox.ts";
import type { OnStep } from "../contracts/steps.ts";
import { createGuestClient } from "../guest/client.ts";
import type { GuestClient } from "../guest/types.ts";
import type { KeyedMutex } from "../lib/keyed-mutex.ts";
import type { Logger } from "../lib/log.ts";
import type { Audit } from "./audit/audit.ts";
import type { Clock } from "./clock.ts";
import type { EngineConfig } from "./config.ts";
import type { SandboxEventBus } from "./events.ts";
import { sandboxInfo } from "./info.ts";
import type { SandboxRecord } from "./record.ts";
import type { Runtimes } from "./runtimes.ts";
import type { SnapshotTable } from "./snapshots/table.ts";
import type { SandboxTable } from "./table.ts";

/** What the engine's parts share. */
export interface Core {
  readonly config: EngineConfig;
  readonly clock: Clock;
  readonly log: Logger;
  readonly runtimes: Runtimes;
  readonly table: SandboxTable;
  readonly snapshots: SnapshotTable;
  readonly events: SandboxEventBus;
  /** One lifecycle step at a time for each sandbox. */
  readonly mutex: KeyedMutex;
  readonly audit: Audit;
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

/** @throws WarrenError `runtime_unavailable` when the sandbox's runtime isn't open; see `Runtimes.use`. */
export function runtimeOf(core: Core, record: SandboxRecord): Runtime {
  return core.runtimes.opened(record.runtime);
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
  const record = await readyRecord(core, wanted);
  if (record.state !== "running") throw notRunning(record);
  try {
    return await work(guestOf(core, record), record);
  } catch (error) {
    throw whyLost(core, record, error);
  }
}

/** A lost connection says less than why it was lost. */
export function whyLost(core: Core, record: SandboxRecord, error: unknown): unknown {
  if (!(error instanceof WarrenError && error.code === "guest_failed")) return error;
  const now = core.table.get(record.id);
  if (now?.state !== "running") return notRunning(now ?? { ...record, state: "removing" });
  return core.runtimes.trouble(record.runtime) ?? error;
}

/** A sandbox whose runtime has its sandboxes in order: as long as it has not, the record says what was, not what is. */
export async function readyRecord(core: Core, wanted: string): Promise<SandboxRecord> {
  const record = core.table.resolve(wanted);
  if (core.runtimes.ready(record.runtime)) return record;
  await core.runtimes.use(record.runtime);
  return core.table.require(record.id);
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
  const sandbox = sandboxInfo(record);
  core.events.emit({ type, at: core.clock.now(), sandbox });
  return sandbox;
}

/** As clients see it; without its runtime nobody can tell how a sandbox is. */
export function currentInfo(core: Core, record: SandboxRecord): SandboxInfo {
  const info = sandboxInfo(record);
  const trouble = core.runtimes.trouble(record.runtime);
  return trouble ? { ...info, status: "error", error: trouble.message } : info;
}

/** Failures of runtimes that aren't our own kind yet. */
export function asWarrenError(cause: unknown, what: string): WarrenError {
  return cause instanceof WarrenError ? cause : new WarrenError("runtime_failed", what, { cause });
}
