import { WarrenError } from "../contracts/errors.ts";
import type { Runtime, RuntimeSandbox } from "../contracts/runtime.ts";
import { announce, asWarrenError, type Core } from "./core.ts";
import type { PortManager } from "./ports/manager.ts";
import type { SandboxRecord } from "./record.ts";
import { isUnavailable } from "./runtimes.ts";
import type { SandboxState } from "./states.ts";
import type { Supervisor } from "./supervisor.ts";

/** Sandboxes that are brought in order side by side: each may wait for a program to end. */
const SIDE_BY_SIDE = 8;

const passing: readonly SandboxState[] = ["creating", "starting", "stopping", "removing"];

/**
 * Brings the store and the world together, in both directions: adopts what lives, finishes what was half done, notes what
 * died, and removes what is ours but in no record. For each runtime before its first call is served, and `again` when it was
 * out of reach. Sandboxes whose record could not be read are kept, for whoever mends the records.
 * @throws what `Runtime.list` throws; then its sandboxes stay as they were last known.
 */
export async function reconcile(
  core: Core,
  supervisor: Supervisor,
  ports: PortManager,
  runtime: Runtime,
  again: boolean,
): Promise<void> {
  const found = await runtime.list();
  const seen = new Map(found.map((sandbox) => [sandbox.id, sandbox]));
  const steps: { id: string; step: () => Promise<void> }[] = [];
  for (const { id, runtime: name, state } of core.table.all()) {
    // In a passing state it is in the hands of a step under way, which may take long.
    if (name !== runtime.name || (again && passing.includes(state))) continue;
    const step = async () => {
      // While this waited for its turn, others may have had theirs.
      const record = core.table.get(id);
      if (record)
        await settle(
          core,
          supervisor,
          ports,
          runtime,
          record,
          again ? await runtime.inspect(id) : seen.get(id),
        );
    };
    steps.push({ id, step });
  }
  for (const { id } of found) {
    if (core.table.get(id)) continue;
    if (core.table.isSetAside(id)) {
      core.log.warn({ sandbox: id }, "a sandbox whose record can't be read is left as it is");
      continue;
    }
    const step = async () => {
      core.log.warn({ sandbox: id, runtime: runtime.name }, "removing a sandbox that is in no record");
      await runtime.remove(id);
    };
    steps.push({ id, step });
  }
  await inParallel(steps, async ({ id, step }) => {
    if (core.closing.aborted) return;
    try {
      await core.mutex.run(id, step);
    } catch (error) {
      core.runtimes.note(runtime.name, error);
      // One sandbox that can't be settled must not keep the others from being served.
      core.log.error({ err: error, runtime: runtime.name }, "a sandbox could not be reconciled");
    }
  });
}

async function settle(
  core: Core,
  supervisor: Supervisor,
  ports: PortManager,
  runtime: Runtime,
  record: SandboxRecord,
  seen: RuntimeSandbox | undefined,
): Promise<void> {
  const { id } = record;
  const { table, log } = core;
  const lives = seen?.state === "running" || seen?.state === "paused";
  switch (record.state) {
    case "creating":
    case "removing": {
      // Nobody was told of the first, and somebody asked for the end of the second.
      log.info({ sandbox: id, state: record.state }, "removing a sandbox that was half made or half removed");
      try {
        await runtime.remove(id);
      } catch (cause) {
        const { message } = asWarrenError(cause, `sandbox ${id} could not be removed`);
        table.update(id, { state: "error", error: message });
        throw cause;
      }
      table.delete(id);
      announce(core, "removed", { ...record, pid: undefined });
      return;
    }
    case "running":
    case "starting":
    case "paused":
      if (lives) return await adopt(core, supervisor, ports, runtime, record, seen);
      if (!seen) return lost(core, record);
      // Dead, but what was around it may still be there.
      announce(
        core,
        "stopped",
        await supervisor.stop(record, 0, { error: "it ended while no engine could see it" }),
      );
      return;
    case "stopping":
      announce(core, "stopped", await supervisor.stop(record, core.config.stopGraceMs));
      return;
    case "stopped":
    case "error":
      if (!seen) return lost(core, record);
      // In error for its silence only: whoever asked last wanted it to run.
      if (lives && record.state === "error" && record.pid !== undefined)
        return await adopt(core, supervisor, ports, runtime, record, seen);
      await keepLimits(core, runtime, record);
      await keepReach(core, runtime, record);
      // Whoever stopped it was told so.
      if (lives) await runtime.stop(id, { timeoutMs: 0 });
      if (record.pid !== undefined) table.update(id, { pid: undefined });
      return;
  }
}

async function adopt(
  core: Core,
  supervisor: Supervisor,
  ports: PortManager,
  runtime: Runtime,
  record: SandboxRecord,
  seen: RuntimeSandbox,
): Promise<void> {
  const { id, startedAt = core.clock.now() } = record;
  const state = seen.state === "paused" ? "paused" : "running";
  const adopted = core.table.update(id, { state, pid: seen.pid, startedAt, error: undefined });
  await keepLimits(core, runtime, adopted);
  if (!(await keepReach(core, runtime, adopted))) {
    // What was forbidden must not go on because it could not be.
    const error = "its network rules could not be put in force";
    announce(core, "stopped", await supervisor.stop(adopted, 0, { error }));
    return;
  }
  await ports.open(id);
  supervisor.watch(adopted);
  if (record.state === "error") announce(core, "started", adopted);
  core.log.info({ sandbox: id, state }, "adopted a running sandbox");
}

/** A change of limits that was cut short is stored here, and may not be in force. */
async function keepLimits(core: Core, runtime: Runtime, { id, spec }: SandboxRecord): Promise<void> {
  if (!spec) return;
  try {
    await runtime.updateLimits(id, spec.limits);
  } catch (error) {
    core.log.warn({ err: error, sandbox: id }, "the stored limits of a sandbox could not be put in force");
  }
}

/** As of limits; and this machine may be in other networks by now. False: other rules may be in force than are stored. */
async function keepReach(core: Core, runtime: Runtime, { id, spec }: SandboxRecord): Promise<boolean> {
  if (spec?.network !== "open" || !spec.reach) return true;
  try {
    await runtime.updateReach(id, spec.reach);
    return true;
  } catch (error) {
    if (isUnavailable(error)) throw error;
    core.log.warn(
      { err: error, sandbox: id },
      "the stored network rules of a sandbox could not be put in force",
    );
    // Of one whose rules can't change, none ever has.
    return error instanceof WarrenError && error.code === "unsupported";
  }
}

function lost(core: Core, record: SandboxRecord): void {
  const error = "its files are gone: the runtime no longer knows it";
  announce(core, "failed", core.table.update(record.id, { state: "error", error, pid: undefined }));
}

async function inParallel<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  const queue = items.values();
  const worker = async () => {
    for (const item of queue) await work(item);
  };
  await Promise.all(Array.from({ length: SIDE_BY_SIDE }, worker));
}
