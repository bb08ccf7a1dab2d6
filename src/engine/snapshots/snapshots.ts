import type { CallOptions, ChangeOptions, SnapshotsApi } from "../../contracts/api.ts";
import { WarrenError } from "../../contracts/errors.ts";
import type { Runtime, SnapshotStore } from "../../contracts/runtime.ts";
import { CreateSnapshot, RestoreSnapshot, SnapshotFilter } from "../../contracts/snapshots.ts";
import { parseInput } from "../../lib/parse.ts";
import { cancelled, linkSignals, throwIfAborted } from "../../lib/signals.ts";
import { announce, asWarrenError, type Core, refuseWhenClosing, runtimeOf } from "../core.ts";
import type { CredentialStore } from "../credentials/store.ts";
import { newSnapshotId } from "../ids.ts";
import type { Lifecycle } from "../lifecycle.ts";
import type { SandboxRecord } from "../record.ts";
import type { SecretKeeper } from "../secrets/keeper.ts";
import { type SnapshotRecord, type SnapshotSettings, settingsOf, snapshotInfo } from "./record.ts";

export interface Snapshots extends SnapshotsApi {
  /** Removes what is half made or half removed, and what is in no record; notes what is lost. Of one runtime. */
  bringInOrder(runtime: Runtime): Promise<void>;
}

/** Snapshots: their files are the runtime's, all else is here. A record comes first and goes last. */
export function createSnapshots(
  core: Core,
  secrets: SecretKeeper,
  credentials: CredentialStore,
  restore: Lifecycle["restore"],
): Snapshots {
  const { snapshots, table, mutex, log } = core;
  /** In the hands of a call that is under way. */
  const busy = new Set<string>();
  /** Restores under way, by snapshot: it is not removed beneath them. */
  const restores = new Map<string, Set<Promise<unknown>>>();

  return {
    async create(wanted, input = {}, { signal, by } = {}) {
      refuseWhenClosing(core);
      throwIfAborted(signal);
      const { name = "" } = parseInput(CreateSnapshot, input);
      const { id: sandboxId, runtime: runtimeName } = table.resolve(wanted);
      if (!core.runtimes.ready(runtimeName)) await core.runtimes.use(runtimeName, signal);
      return await mutex.run(sandboxId, async () => {
        throwIfAborted(signal);
        refuseWhenClosing(core);
        const record = table.require(sandboxId);
        const store = storeOf(runtimeOf(core, record));
        const settings = takeable(record);
        const made = await take(record, settings, store, name, signal);
        const entry = { type: "snapshot", sandbox: sandboxId, action: "create", snapshot: made.id } as const;
        core.audit.write({ ...entry, ...(by ? { by } : {}) }, { durable: true });
        announce(core, "snapshotted", table.require(sandboxId));
        return snapshotInfo(made);
      });
    },

    async list(filter = {}) {
      refuseWhenClosing(core);
      const { sandbox_id: wanted } = parseInput(SnapshotFilter, filter);
      const all = snapshots.all();
      const id = wanted === undefined ? undefined : sandboxIdOf(wanted);
      return all.filter(({ sandboxId }) => id === undefined || sandboxId === id).map(snapshotInfo);
    },

    async get(wanted) {
      refuseWhenClosing(core);
      return snapshotInfo(snapshots.resolve(wanted));
    },

    async restore(wanted, input = {}, options: CallOptions & ChangeOptions = {}) {
      refuseWhenClosing(core);
      throwIfAborted(options.signal);
      const request = parseInput(RestoreSnapshot, input);
      const { id, runtime: name } = snapshots.resolve(wanted);
      const runtime = await core.runtimes.use(name, options.signal);
      refuseWhenClosing(core);
      storeOf(runtime);
      const work = restore(snapshots.resolve(id), request, options);
      const underWay = restores.get(id) ?? new Set();
      restores.set(id, underWay.add(work));
      try {
        return await work;
      } finally {
        underWay.delete(work);
        if (underWay.size === 0) restores.delete(id);
      }
    },

    async remove(wanted, { by } = {}) {
      refuseWhenClosing(core);
      if (snapshots.get(wanted) === undefined && table.isSetAside(wanted))
        return await removeUnreadable(wanted);
      const { id, runtime: name } = snapshots.resolve(wanted);
      const runtime = await core.runtimes.use(name);
      refuseWhenClosing(core);
      await mutex.run(id, async () => {
        const record = snapshots.resolve(id);
        const store = storeOf(runtime);
        busy.add(id);
        try {
          // From here on nobody finds it; those who have, come to their end first.
          snapshots.save({ ...record, state: "removing" });
          await Promise.allSettled(restores.get(id) ?? []);
          await discard(id, store);
        } catch (cause) {
          core.runtimes.note(runtime.name, cause);
          // It may have lost a part of its files, and can be removed again.
          snapshots.save({ ...record, error: "its removal failed" });
          throw asWarrenError(cause, `snapshot ${id} could not be removed`);
        } finally {
          busy.delete(id);
        }
        const entry = {
          type: "snapshot",
          sandbox: record.sandboxId,
          action: "remove",
          snapshot: id,
        } as const;
        core.audit.write({ ...entry, ...(by ? { by } : {}) }, { durable: true });
      });
    },

    async bringInOrder(runtime) {
      const { snapshots: store } = runtime;
      if (!store) return;
      const found = new Set((await store.list()).map(({ id }) => id));
      for (const record of snapshots.everything()) {
        const { id } = record;
        if (record.runtime !== runtime.name || busy.has(id)) continue;
        await settle(runtime, id, async () => {
          if (record.state !== "ready") {
            log.info({ snapshot: id }, "removing a snapshot that was half made or half removed");
            await discard(id, store);
          } else if (!found.has(id)) {
            const error = "its files are gone: the runtime no longer knows it";
            if (record.error !== error) snapshots.save({ ...record, error });
          }
        });
      }
      for (const id of found) {
        if (snapshots.get(id) || busy.has(id)) continue;
        if (table.isSetAside(id)) {
          log.warn({ snapshot: id }, "a snapshot whose record can't be read is left as it is");
          continue;
        }
        await settle(runtime, id, async () => {
          log.warn({ snapshot: id, runtime: runtime.name }, "removing a snapshot that is in no record");
          await store.remove(id);
        });
      }
    },
  };

  /** In the sandbox's turn. */
  async function take(
    { id: sandboxId, runtime }: SandboxRecord,
    settings: SnapshotSettings,
    store: SnapshotStore,
    name: string,
    signal: AbortSignal | undefined,
  ): Promise<SnapshotRecord> {
    const id = newSnapshotId();
    const draft: SnapshotRecord = {
      id,
      sandboxId,
      name,
      runtime,
      state: "creating",
      createdAt: core.clock.now(),
      sizeBytes: 0,
      settings,
    };
    using either = linkSignals(signal, core.closing);
    busy.add(id);
    try {
      snapshots.save(draft);
      if (settings.secrets?.length) await secrets.copy(sandboxId, id);
      if (settings.credentials?.length) await credentials.copy(sandboxId, id);
      throwIfAborted(either.signal);
      const { sizeBytes, image } = await store.create(sandboxId, id, { signal: either.signal });
      core.onStep("snapshot.taken");
      throwIfAborted(either.signal);
      return snapshots.save({
        ...draft,
        state: "ready",
        sizeBytes,
        image: { ...image, reference: settings.request.image },
      });
    } catch (cause) {
      core.runtimes.note(runtime, cause);
      await discard(id, store).catch((error: unknown) => {
        // The next engine tries again.
        log.error({ err: error, snapshot: id }, "a failed snapshot could not be undone");
      });
      if (either.signal.aborted) throw cancelled(either.signal);
      throw asWarrenError(cause, `no snapshot of sandbox ${sandboxId} could be taken`);
    } finally {
      busy.delete(id);
    }
  }

  /** Files, then values, then the record. */
  async function discard(id: string, store: SnapshotStore): Promise<void> {
    await store.remove(id);
    core.onStep("snapshot.dropped");
    await secrets.remove(id);
    await credentials.remove(id);
    snapshots.delete(id);
  }

  /** One that can't be brought in order keeps nobody from being served. */
  async function settle(runtime: Runtime, id: string, step: () => Promise<void>): Promise<void> {
    if (core.closing.aborted) return;
    try {
      await step();
    } catch (error) {
      core.runtimes.note(runtime.name, error);
      log.error({ err: error, snapshot: id }, "a snapshot could not be reconciled");
    }
  }

  /** Removes what a record that can't be read stood for, in whichever runtime it is. */
  async function removeUnreadable(id: string): Promise<void> {
    const runtimes = await Promise.all(core.runtimes.inUse().map((name) => core.runtimes.use(name)));
    refuseWhenClosing(core);
    await mutex.run(id, async () => {
      for (const runtime of runtimes) await runtime.snapshots?.remove(id);
      await secrets.remove(id);
      await credentials.remove(id);
      table.forgetSetAside(id);
    });
  }

  /** Of one that is gone only its full id is known. */
  function sandboxIdOf(wanted: string): string {
    try {
      return table.resolve(wanted).id;
    } catch (error) {
      if (error instanceof WarrenError && error.code === "sandbox_not_found") return wanted;
      throw error;
    }
  }
}

/** @throws WarrenError `unsupported` */
function storeOf(runtime: Runtime): SnapshotStore {
  if (runtime.snapshots) return runtime.snapshots;
  throw new WarrenError("unsupported", `the runtime ${runtime.name} has no snapshots`, {
    hint: "choose another runtime; warren doctor tells what each can do",
  });
}

/** @throws WarrenError `sandbox_wrong_state` */
function takeable(record: SandboxRecord): SnapshotSettings {
  const settings = settingsOf(record);
  const states: readonly SandboxRecord["state"][] = ["running", "paused", "stopped"];
  if (settings && states.includes(record.state)) return settings;
  throw new WarrenError(
    "sandbox_wrong_state",
    `sandbox ${record.id} can't have a snapshot taken of it while it is ${record.state === "error" ? "in error" : record.state}`,
    { hint: `see how it is: warren inspect ${record.id}` },
  );
}
