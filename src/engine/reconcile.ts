import type { Runtime, RuntimeSandbox } from "../contracts/runtime.ts";
import { announce, asWarrenError, type Core } from "./core.ts";
import type { SandboxRecord } from "./record.ts";
import type { Supervisor } from "./supervisor.ts";

/** Sandboxes that are brought in order side by side: each may wait for a program to end. */
const SIDE_BY_SIDE = 8;

/**
 * Brings the store and the world together after whatever ended the last engine, in both directions: adopts what
 * lives, finishes what was half done, notes what died, and removes what is ours but in no record. Runs before the
 * first call is served. A runtime that can't be asked leaves its sandboxes as they were last known.
 * Sandboxes whose record could not be read are kept, for whoever mends the records.
 */
export async function reconcile(core: Core, supervisor: Supervisor): Promise<void> {
  await Promise.all(
    Object.values(core.runtimes).map(async (runtime) => {
      let found: RuntimeSandbox[];
      try {
        found = await runtime.list();
      } catch (error) {
        core.log.error({ err: error, runtime: runtime.name }, "a runtime can't list its sandboxes");
        return;
      }
      await reconcileRuntime(core, supervisor, runtime, found);
    }),
  );
}

async function reconcileRuntime(
  core: Core,
  supervisor: Supervisor,
  runtime: Runtime,
  found: RuntimeSandbox[],
): Promise<void> {
  const seen = new Map(found.map((sandbox) => [sandbox.id, sandbox]));
  const records = core.table.all().filter((record) => record.runtime === runtime.name);
  const steps = records.map((record) => () => settle(core, supervisor, runtime, record, seen.get(record.id)));
  for (const { id } of found) {
    if (core.table.get(id)) continue;
    if (core.table.isSetAside(id)) {
      core.log.warn({ sandbox: id }, "a sandbox whose record can't be read is left as it is");
      continue;
    }
    steps.push(async () => {
      core.log.warn({ sandbox: id, runtime: runtime.name }, "removing a sandbox that is in no record");
      await runtime.remove(id);
    });
  }
  await inParallel(steps, async (step) => {
    try {
      await step();
    } catch (error) {
      // One sandbox that can't be settled must not keep the others from being served.
      core.log.error({ err: error, runtime: runtime.name }, "a sandbox could not be reconciled");
    }
  });
}

async function settle(
  core: Core,
  supervisor: Supervisor,
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
      return;
    }
    case "running":
    case "starting":
    case "paused":
      if (lives) return await adopt(core, supervisor, runtime, record, seen);
      if (!seen) return lost(core, record);
      // Dead, but what was around it may still be there.
      await supervisor.stop(record, 0, { error: "it ended while no engine was running" });
      return;
    case "stopping":
      await supervisor.stop(record, core.config.stopGraceMs);
      return;
    case "stopped":
    case "error":
      if (!seen) return lost(core, record);
      // In error for its silence only: whoever asked last wanted it to run.
      if (lives && record.state === "error" && record.pid !== undefined)
        return await adopt(core, supervisor, runtime, record, seen);
      await keepLimits(core, runtime, record);
      // Whoever stopped it was told so.
      if (lives) await runtime.stop(id, { timeoutMs: 0 });
      if (record.pid !== undefined) table.update(id, { pid: undefined });
      return;
  }
}

async function adopt(
  core: Core,
  supervisor: Supervisor,
  runtime: Runtime,
  record: SandboxRecord,
  seen: RuntimeSandbox,
): Promise<void> {
  const { id, startedAt = core.clock.now() } = record;
  const state = seen.state === "paused" ? "paused" : "running";
  const adopted = core.table.update(id, { state, pid: seen.pid, startedAt, error: undefined });
  await keepLimits(core, runtime, adopted);
  supervisor.watch(adopted);
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
