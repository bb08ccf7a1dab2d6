import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import Database from "libsql";
import { WarrenError } from "../contracts/errors.ts";
import type { Logger } from "../lib/log.ts";
import { describeIssues } from "../lib/parse.ts";
import { type Clock, systemClock } from "./clock.ts";
import { createGroupSync } from "./group-sync.ts";
import { migrate } from "./migrations.ts";
import { SandboxRecord } from "./record.ts";
import { createSnapshotRows, type SnapshotRows } from "./snapshots/rows.ts";

/** Where sandboxes are kept over restarts of the engine. Every call but `saveSoon` returns once the change is on disk. */
export interface Store {
  /** All records, in the order in which they were added: a clock may step. A row that can't be read is set aside, reported, and never fatal. */
  load(): SandboxRecord[];
  /** Adds or replaces. Throws `name_taken` when another record has the name. */
  save(record: SandboxRecord): void;
  /**
   * As `save`, but it is on disk only once the promise is settled, and holds nobody up meanwhile: many at one time share
   * what the disk takes for one.
   */
  saveSoon(record: SandboxRecord): Promise<void>;
  delete(id: string): void;
  /** Ids of rows that were set aside and not yet forgotten, of earlier runs too. */
  quarantined(): string[];
  forgetQuarantined(id: string): void;
  readonly snapshots: SnapshotRows;
  close(): void;
}

const columns = [
  "id",
  "name",
  "runtime",
  "state",
  "image_id",
  "created_at",
  "expires_at",
  "started_at",
  "stopped_at",
  "pid",
  "exit_code",
  "oom_killed",
  "error",
  "request",
  "spec",
  "network",
  "ports",
  "learnt",
  "secrets",
  "credentials",
  "snapshot",
] as const;
/**
 * With NORMAL a power cut could forget a sandbox that its owner was told of, and reconcile would then delete its files as
 * an orphan's. One fsync per change is cheap beside starting a process.
 */
const SYNCHRONOUS = "FULL";

type Row = Record<(typeof columns)[number], unknown>;

export function openStore(stateDir: string, log: Logger, clock: Pick<Clock, "now"> = systemClock): Store {
  const path = join(stateDir, "engine.db");
  const database = openDatabase(path);
  try {
    makeReserve(database);
  } catch (error) {
    log.warn({ err: error }, "the engine's database has no reserve for when the disk is full");
  }
  const upsert = database.prepare(
    `INSERT INTO sandboxes (${columns.join(", ")}) VALUES (${columns.map(() => "?").join(", ")})
     ON CONFLICT (id) DO UPDATE SET ${columns.map((c) => `${c} = excluded.${c}`).join(", ")}`,
  );
  const remove = database.prepare("DELETE FROM sandboxes WHERE id = ?");
  const walSync = createGroupSync(`${path}-wal`);
  const setAside = database.prepare("INSERT INTO quarantine (id, row, reason, at) VALUES (?, ?, ?, ?)");

  function save(record: SandboxRecord): void {
    try {
      durably(database, () => upsert.run(...toRow(record)));
    } catch (cause) {
      throw translate(cause, record);
    }
  }

  return {
    load() {
      const records: SandboxRecord[] = [];
      for (const row of database.prepare("SELECT * FROM sandboxes ORDER BY rowid").all() as Row[]) {
        const parsed = parseRow(row);
        if (typeof parsed !== "string") {
          records.push(parsed);
          continue;
        }
        log.error({ sandbox: row.id, reason: parsed }, "a stored sandbox can't be read and was set aside");
        database.transaction(() => {
          setAside.run(String(row.id), JSON.stringify(row), parsed, clock.now());
          remove.run(String(row.id));
        })();
      }
      return records;
    },
    save,
    saveSoon(record) {
      // Without the wait for the disk that ends each transaction; the same wait follows, in the thread pool.
      database.pragma("synchronous = NORMAL");
      try {
        save(record);
      } finally {
        database.pragma(`synchronous = ${SYNCHRONOUS}`);
      }
      return walSync.sync();
    },
    delete: (id) => durably(database, () => remove.run(id)),
    quarantined: () =>
      (database.prepare("SELECT DISTINCT id FROM quarantine").all() as { id: string }[]).map((row) => row.id),
    forgetQuarantined: (id) =>
      durably(database, () => database.prepare("DELETE FROM quarantine WHERE id = ?").run(id)),
    snapshots: createSnapshotRows(database, {
      durably: (change) => durably(database, change),
      setAside(id, row, reason) {
        log.error({ snapshot: id, reason }, "a stored snapshot can't be read and was set aside");
        setAside.run(id, row, reason, clock.now());
      },
    }),
    close() {
      try {
        database.pragma("wal_checkpoint(TRUNCATE)");
      } finally {
        database.close();
        walSync.close();
      }
    },
  };
}

function openDatabase(path: string): Database.Database {
  try {
    // The rows hold environments, and those hold secrets. SQLite gives its side files the mode of the main one.
    closeSync(openSync(path, "a", 0o600));
    const database = new Database(path);
    database.pragma("journal_mode = WAL");
    database.pragma(`synchronous = ${SYNCHRONOUS}`);
    migrate(database);
    const [check] = database.pragma("quick_check(1)") as { quick_check: string }[];
    if (check?.quick_check !== "ok") throw new Error(check?.quick_check);
    return database;
  } catch (cause) {
    if (cause instanceof WarrenError) throw cause;
    throw new WarrenError("internal", `the engine's database ${path} can't be opened`, {
      hint: "restore the file from a backup; without it (moved away), the next start removes this directory's sandboxes",
      cause,
    });
  }
}

/** Bytes of the reserve: room for dozens of changes. */
const RESERVE_BYTES = 256 * 1024;

/**
 * Has the disk's blocks for some changes allocated beforehand, in the database (as free pages) and in its log: when a
 * sandbox has filled the disk, stopping and removing it must be possible.
 */
function makeReserve(database: Database.Database): void {
  // `transaction` rolls back what fails: left open, it would swallow every change that comes after.
  database.transaction(() => {
    database.exec("CREATE TABLE IF NOT EXISTS reserve (filler BLOB)"); // there is one when an engine was killed below
    database.exec(`INSERT INTO reserve VALUES (zeroblob(${RESERVE_BYTES}))`);
  })();
  database.pragma("wal_checkpoint(RESTART)");
  database.exec("DROP TABLE reserve");
}

/** Changes the database. On a full disk its log starts over, in the blocks that it has. */
function durably(database: Database.Database, change: () => void): void {
  try {
    change();
  } catch (error) {
    if ((error as { code?: unknown }).code !== "SQLITE_FULL") throw error;
    database.pragma("wal_checkpoint(RESTART)");
    change();
  }
}

function toRow(record: SandboxRecord): unknown[] {
  const row: Row = {
    id: record.id,
    name: record.name ?? null,
    runtime: record.runtime,
    state: record.state,
    image_id: record.spec?.image.id ?? null,
    created_at: record.createdAt,
    expires_at: record.expiresAt ?? null,
    started_at: record.startedAt ?? null,
    stopped_at: record.stoppedAt ?? null,
    pid: record.pid ?? null,
    exit_code: record.exitCode ?? null,
    oom_killed: record.oomKilled === undefined ? null : Number(record.oomKilled),
    error: record.error ?? null,
    request: JSON.stringify(record.request),
    spec: record.spec === undefined ? null : JSON.stringify(record.spec),
    network: record.network === undefined ? null : JSON.stringify(record.network),
    ports: record.ports === undefined ? null : JSON.stringify(record.ports),
    learnt: record.learnt === undefined ? null : JSON.stringify(record.learnt),
    secrets: record.secrets === undefined ? null : JSON.stringify(record.secrets),
    credentials: record.credentials === undefined ? null : JSON.stringify(record.credentials),
    snapshot: record.snapshot ?? null,
  };
  return columns.map((column) => row[column]);
}

/** The record, or a sentence on why it can't be read. */
function parseRow(row: Row): SandboxRecord | string {
  const absent = (value: unknown) => value ?? undefined;
  let request: unknown;
  let spec: unknown;
  let network: unknown;
  let ports: unknown;
  let learnt: unknown;
  let secrets: unknown;
  let credentials: unknown;
  try {
    request = JSON.parse(String(row.request));
    spec = row.spec === null ? undefined : JSON.parse(String(row.spec));
    network = row.network === null ? undefined : JSON.parse(String(row.network));
    ports = row.ports === null ? undefined : JSON.parse(String(row.ports));
    learnt = row.learnt === null ? undefined : JSON.parse(String(row.learnt));
    secrets = row.secrets === null ? undefined : JSON.parse(String(row.secrets));
    credentials = row.credentials === null ? undefined : JSON.parse(String(row.credentials));
  } catch (error) {
    return `its configuration is not JSON: ${(error as Error).message}`;
  }
  const result = SandboxRecord.safeParse({
    id: row.id,
    name: absent(row.name),
    runtime: row.runtime,
    state: row.state,
    request,
    spec,
    ports,
    secrets,
    credentials,
    createdAt: row.created_at,
    expiresAt: absent(row.expires_at),
    startedAt: absent(row.started_at),
    stoppedAt: absent(row.stopped_at),
    pid: absent(row.pid),
    exitCode: absent(row.exit_code),
    oomKilled: row.oom_killed === null ? undefined : row.oom_killed === 1,
    error: absent(row.error),
    snapshot: absent(row.snapshot),
    network,
    learnt,
  });
  return result.success ? result.data : describeIssues(result.error);
}

function translate(cause: unknown, record: SandboxRecord): WarrenError {
  const code = (cause as { code?: unknown }).code;
  if (code === "SQLITE_CONSTRAINT_UNIQUE") return nameTaken(record.name ?? "");
  if (code === "SQLITE_FULL") {
    return new WarrenError("no_space", "the engine's database is full", { hint: "free disk space", cause });
  }
  return new WarrenError("internal", `sandbox ${record.id} can't be stored`, { cause });
}

export function nameTaken(name: string): WarrenError {
  return new WarrenError("name_taken", `another sandbox has the name ${JSON.stringify(name)}`, {
    hint: `choose another name, or remove that sandbox: warren rm ${name}`,
  });
}
