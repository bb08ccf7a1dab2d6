import { noStep, type OnStep } from "../../contracts/steps.ts";
import { resolveSnapshot } from "../ids.ts";
import type { SnapshotRecord } from "./record.ts";
import type { SnapshotRows } from "./rows.ts";

/** All snapshots, in memory and on disk alike; on disk first. None of its calls waits. */
export interface SnapshotTable {
  /** Those that are ready, the oldest first. */
  all(): SnapshotRecord[];
  /** Half made and half removed ones included. */
  everything(): SnapshotRecord[];
  /** Whatever its state. */
  get(id: string): SnapshotRecord | undefined;
  /** One that is ready, by id, prefix or name. Throws `snapshot_not_found`, `invalid_request`. */
  resolve(wanted: string): SnapshotRecord;
  save(record: SnapshotRecord): SnapshotRecord;
  delete(id: string): void;
}

export function createSnapshotTable(rows: SnapshotRows, onStep: OnStep = noStep): SnapshotTable {
  const records = new Map(rows.load().map((record) => [record.id, record]));
  const all = () => [...records.values()].filter(({ state }) => state === "ready");
  return {
    all,
    everything: () => [...records.values()],
    get: (id) => records.get(id),
    resolve: (wanted) => resolveSnapshot(wanted, new Map(all().map((record) => [record.id, record]))),
    save(record) {
      rows.save(record);
      onStep(`snapshot.${record.state}`);
      records.set(record.id, record);
      return record;
    },
    delete(id) {
      rows.delete(id);
      onStep("snapshot.deleted");
      records.delete(id);
    },
  };
}
