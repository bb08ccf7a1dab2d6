import type Database from "libsql";
import { WarrenError } from "../contracts/errors.ts";

/** Step n brings a database from version n to n + 1. Steps that were released never change. */
const migrations: readonly string[] = [
  `CREATE TABLE sandboxes (
     id TEXT PRIMARY KEY,
     name TEXT,
     runtime TEXT NOT NULL,
     state TEXT NOT NULL,
     image_id TEXT,
     created_at INTEGER NOT NULL,
     expires_at INTEGER,
     started_at INTEGER,
     stopped_at INTEGER,
     pid INTEGER,
     exit_code INTEGER,
     oom_killed INTEGER,
     error TEXT,
     request TEXT NOT NULL,
     spec TEXT
   ) STRICT;
   CREATE UNIQUE INDEX sandboxes_name ON sandboxes (name) WHERE name IS NOT NULL;
   CREATE TABLE quarantine (
     id TEXT NOT NULL,
     row TEXT NOT NULL,
     reason TEXT NOT NULL,
     at INTEGER NOT NULL
   ) STRICT;`,
  // Earlier ones have the rules that they were created with.
  `ALTER TABLE sandboxes ADD COLUMN network TEXT;
   UPDATE sandboxes SET network = json_extract(request, '$.network') WHERE json_valid(request);`,
  "ALTER TABLE sandboxes ADD COLUMN ports TEXT;",
  "ALTER TABLE sandboxes ADD COLUMN learnt TEXT;",
  "ALTER TABLE sandboxes ADD COLUMN secrets TEXT;",
  "ALTER TABLE sandboxes ADD COLUMN credentials TEXT;",
  `CREATE TABLE snapshots (
     id TEXT PRIMARY KEY,
     sandbox_id TEXT NOT NULL,
     name TEXT NOT NULL,
     runtime TEXT NOT NULL,
     state TEXT NOT NULL,
     created_at INTEGER NOT NULL,
     size INTEGER NOT NULL,
     image TEXT,
     settings TEXT NOT NULL,
     error TEXT
   ) STRICT;
   ALTER TABLE sandboxes ADD COLUMN snapshot TEXT;`,
];

/**
 * Brings the database to this version of the schema, each step whole or not at all.
 * @throws WarrenError `internal` when a newer Warren has written it.
 */
export function migrate(database: Database.Database): void {
  const [row] = database.pragma("user_version") as { user_version: number }[];
  const version = row?.user_version ?? 0;
  if (version > migrations.length) {
    throw new WarrenError(
      "internal",
      `the engine's database has version ${version}, newer than this Warren`,
      {
        hint: "run the Warren that wrote it, or choose another state directory",
      },
    );
  }
  for (const [step, sql] of migrations.entries()) {
    if (step >= version) database.exec(`BEGIN IMMEDIATE; ${sql} PRAGMA user_version = ${step + 1}; COMMIT;`);
  }
}
