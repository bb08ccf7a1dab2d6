import { noStep, type OnStep } from "../contracts/steps.ts";
import { resolveSandbox, sandboxNotFound } from "./ids.ts";
import type { SandboxRecord } from "./record.ts";
import { checkMove } from "./states.ts";
import { nameTaken, type Store } from "./store.ts";

/** A record's fields to change; `undefined` clears one. */
export type RecordPatch = Partial<Omit<SandboxRecord, "id" | "createdAt">>;

/**
 * All sandboxes, in memory and in the store alike. Every writer goes through `add`, `update` and `delete`: they store
 * first, so that what others see is never ahead of what a restart would find. None of them waits, so a check and the
 * change after it are one step; a new record alone is on disk a little later, and nothing is made of it before.
 */
export interface SandboxTable {
  readonly size: number;
  all(): SandboxRecord[];
  get(id: string): SandboxRecord | undefined;
  /** Throws `sandbox_not_found`. */
  require(id: string): SandboxRecord;
  /** By id, name or prefix. Throws `sandbox_not_found`, `invalid_request`. */
  resolve(wanted: string): SandboxRecord;
  /** Throws `name_taken`. In the table at once; on disk when the promise is settled, before which nothing may be made. */
  add(record: SandboxRecord): Promise<void>;
  /** Refuses a move of state that the table of states doesn't know. */
  update(id: string, patch: RecordPatch): SandboxRecord;
  delete(id: string): void;
  /** True for a sandbox, or a snapshot, whose stored record could not be read. */
  isSetAside(id: string): boolean;
  forgetSetAside(id: string): void;
}

export function createTable(store: Store, onStep: OnStep = noStep): SandboxTable {
  const records = new Map(store.load().map((record) => [record.id, record]));
  const setAside = new Set(store.quarantined());
  const require = (id: string) => {
    const record = records.get(id);
    if (!record) throw sandboxNotFound(id);
    return record;
  };
  return {
    get size() {
      return records.size;
    },
    all: () => [...records.values()],
    get: (id) => records.get(id),
    require,
    resolve: (wanted) => resolveSandbox(wanted, records),
    add(record) {
      for (const other of records.values()) {
        if (record.name !== undefined && other.name === record.name) throw nameTaken(record.name);
      }
      const stored = store.saveSoon(record);
      records.set(record.id, record);
      return stored.then(() => onStep(`stored.${record.state}`));
    },
    update(id, patch) {
      const before = require(id);
      if (patch.state !== undefined) checkMove(id, before.state, patch.state);
      const after = { ...before, ...patch };
      store.save(after);
      onStep(`stored.${after.state}`);
      records.set(id, after);
      return after;
    },
    delete(id) {
      store.delete(id);
      onStep("stored.deleted");
      records.delete(id);
    },
    isSetAside: (id) => setAside.has(id),
    forgetSetAside(id) {
      store.forgetQuarantined(id);
      setAside.delete(id);
    },
  };
}
