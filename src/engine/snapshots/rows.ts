import type Database from "libsql";
import { describeIssues, jsonOrUndefined } from "../../lib/parse.ts";
import { SnapshotRecord } from "./record.ts";

/** Where snapshots are kept over restarts of the engine. Every call returns once the change is on disk. */
export interface SnapshotRows {
  /** In the order in which they were added. A row that can't be read is set aside. */
  load(): SnapshotRecord[];
  save(record: SnapshotRecord): void;
  delete(id: string): void;
}

const columns = [
  "id",
  "sandbox_id",
  "name",
  "runtime",
  "state",
  "created_at",
  "size",
  "image",
  "settings",
  "error",
] as const;
type Row = Record<(typeof columns)[number], unknown>;

export function createSnapshotRows(
  database: Database.Database,
  {
    durably,
    setAside,
  }: {
    durably(change: () => void): void;
    /** To where rows are kept that can't be read. */
    setAside(id: string, row: string, reason: string): void;
  },
): SnapshotRows {
  const upsert = database.prepare(
    `INSERT INTO snapshots (${columns.join(", ")}) VALUES (${columns.map(() => "?").join(", ")})
     ON CONFLICT (id) DO UPDATE SET ${columns.map((c) => `${c} = excluded.${c}`).join(", ")}`,
  );
  const remove = database.prepare("DELETE FROM snapshots WHERE id = ?");
  return {
    load() {
      const rows = database.prepare("SELECT * FROM snapshots ORDER BY rowid").all() as Row[];
      return rows.flatMap((row) => {
        const parsed = parseRow(row);
        if (typeof parsed !== "string") return [parsed];
        database.transaction(() => {
          setAside(String(row.id), JSON.stringify(row), parsed);
          remove.run(String(row.id));
        })();
        return [];
      });
    },
    save: (record) => durably(() => upsert.run(...toRow(record))),
    delete: (id) => durably(() => remove.run(id)),
  };
}

function toRow(record: SnapshotRecord): unknown[] {
  const row: Row = {
    id: record.id,
    sandbox_id: record.sandboxId,
    name: record.name,
    runtime: record.runtime,
    state: record.state,
    created_at: record.createdAt,
    size: record.sizeBytes,
    image: record.image === undefined ? null : JSON.stringify(record.image),
    settings: JSON.stringify(record.settings),
    error: record.error ?? null,
  };
  return columns.map((column) => row[column]);
}

/** The record, or a sentence on why it can't be read. */
function parseRow(row: Row): SnapshotRecord | string {
  const result = SnapshotRecord.safeParse({
    id: row.id,
    sandboxId: row.sandbox_id,
    name: row.name,
    runtime: row.runtime,
    state: row.state,
    createdAt: row.created_at,
    sizeBytes: row.size,
    // What isn't JSON is no image either.
    image: row.image === null ? undefined : (jsonOrUndefined(String(row.image)) ?? null),
    settings: jsonOrUndefined(String(row.settings)),
    error: row.error ?? undefined,
  });
  return result.success ? result.data : describeIssues(result.error);
}
