import { copyFileSync, existsSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "libsql";
import { describe, expect, it } from "vitest";
import { CreateSandbox } from "../../src/contracts/sandbox.ts";
import type { SandboxRecord } from "../../src/engine/record.ts";
import { openStore } from "../../src/engine/store.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { tempDir } from "./support/temp-dir.ts";

const ID = "aaaabbbbccccdddd";

function record(patch: Partial<SandboxRecord> = {}): SandboxRecord {
  return {
    id: ID,
    name: "web",
    runtime: "fake",
    state: "stopped",
    request: CreateSandbox.parse({ env: { A: "ü\n'\"" }, labels: { l: "1" }, memory: 2 ** 40 }),
    spec: {
      id: ID,
      image: { id: "host", reference: "host", env: {}, workdir: "/w" },
      env: { A: "ü\n'\"" },
      workdir: "/",
      cmd: ["sleep", "1"],
      hostname: "web",
      labels: { l: "1" },
      network: "none",
      isolation: "container",
      readonlyRoot: true,
      tmpfs: [{ path: "/tmp", sizeBytes: 1, readonly: false, exec: true, mode: 0o1777 }],
      mounts: [{ type: "volume", source: "cache", target: "/cache", readonly: true }],
      limits: { memoryBytes: 2 ** 40, cpuNano: 0, pids: 5 },
    },
    createdAt: 1_700_000_000_000,
    expiresAt: 1_700_000_000_000 + 315_360_000_000,
    startedAt: 1,
    stoppedAt: 2,
    pid: 4_194_304,
    exitCode: 137,
    oomKilled: true,
    error: "why",
    network: { allow: ["example.com"] },
    learnt: ["example.com:443"],
    ...patch,
  };
}

const open = (path: string) => openStore(path, silentLogger);

function tamper(path: string, sql: string): void {
  const database = new Database(join(path, "engine.db"));
  database.exec(sql);
  database.close();
}

describe("the store", () => {
  it("reads a sandbox of before there was a choice of isolation as a container", () => {
    using dir = tempDir();
    const saved = open(dir.path);
    saved.save(record());
    saved.close();
    tamper(dir.path, "UPDATE sandboxes SET spec = json_remove(spec, '$.isolation')");
    const store = open(dir.path);
    expect(store.load()).toEqual([record()]);
    store.close();
  });

  it("gives sandboxes of before rules were stored those that they were created with", () => {
    using dir = tempDir();
    const request = CreateSandbox.parse({ network: { allow: ["example.com"] } });
    const first = open(dir.path);
    first.save(record({ request }));
    first.save(record({ id: "bbbbbbbbccccdddd", name: undefined, network: undefined }));
    first.save(record({ id: "ccccbbbbccccdddd", name: undefined }));
    first.close();
    tamper(
      dir.path,
      `UPDATE sandboxes SET request = '{' WHERE id = 'ccccbbbbccccdddd';
       ALTER TABLE sandboxes DROP COLUMN network; ALTER TABLE sandboxes DROP COLUMN ports;
       ALTER TABLE sandboxes DROP COLUMN learnt; ALTER TABLE sandboxes DROP COLUMN secrets;
       ALTER TABLE sandboxes DROP COLUMN credentials; ALTER TABLE sandboxes DROP COLUMN snapshot;
       DROP TABLE snapshots; PRAGMA user_version = 1`,
    );
    const store = open(dir.path);
    expect(store.load().map(({ network }) => network)).toEqual([{ allow: ["example.com"] }, undefined]);
    store.close();
  });

  it("gives back whole what was saved, after a reopen too", () => {
    using dir = tempDir();
    const bare: SandboxRecord = {
      id: "zzzzbbbbccccdddd",
      runtime: "oci",
      state: "creating",
      request: CreateSandbox.parse({}),
      createdAt: 1,
    };
    const store = open(dir.path);
    store.save(record());
    store.save(bare);
    store.save(record({ error: undefined }));
    store.close();
    const again = open(dir.path);
    expect(again.load()).toEqual([record({ error: undefined }), bare]);
    again.delete(ID);
    expect(again.load()).toEqual([bare]);
    again.close();
  });

  it("lets nobody but its owner read the environments in it", () => {
    using dir = tempDir();
    const store = open(dir.path);
    store.save(record());
    for (const file of ["engine.db", "engine.db-wal", "engine.db-shm"]) {
      const path = join(dir.path, file);
      if (existsSync(path)) expect(statSync(path).mode & 0o077).toBe(0);
    }
    store.close();
  });

  it("keeps names unique", () => {
    using dir = tempDir();
    const store = open(dir.path);
    store.save(record());
    expect(() => store.save(record({ id: "bbbbbbbbccccdddd" }))).toThrow(
      expect.objectContaining({ code: "name_taken" }),
    );
    store.save(record({ id: "bbbbbbbbccccdddd", name: undefined }));
    store.save(record({ id: "ccccbbbbccccdddd", name: undefined }));
    store.close();
  });

  it.each([
    ["a request that is no JSON", "UPDATE sandboxes SET request = '{'"],
    ["a request of the wrong shape", `UPDATE sandboxes SET request = '{"cmd": 5}'`],
    ["a spec of the wrong shape", `UPDATE sandboxes SET spec = '{"id": 5}'`],
    ["an unknown state", "UPDATE sandboxes SET state = 'flying'"],
    ["an id that would be a path", "UPDATE sandboxes SET id = '../../etc'"],
  ])("sets a row with %s aside and reads the others", (_, sql) => {
    using dir = tempDir();
    const store = open(dir.path);
    store.save(record());
    store.close();
    tamper(dir.path, sql);
    const again = open(dir.path);
    const good = record({ id: "bbbbbbbbccccdddd", name: undefined });
    again.save(good);
    expect(again.load()).toEqual([good]);
    const [aside] = again.quarantined();
    expect(aside).toBe(sql.includes("../") ? "../../etc" : ID);
    again.close();
    const third = open(dir.path);
    expect(third.quarantined()).toEqual([aside]);
    third.forgetQuarantined(aside ?? "");
    expect(third.quarantined()).toEqual([]);
    third.close();
  });

  it("does not touch a database that a newer version wrote", () => {
    using dir = tempDir();
    open(dir.path).close();
    tamper(dir.path, "PRAGMA user_version = 999");
    expect(() => open(dir.path)).toThrow(/newer than this Warren/);
  });

  it("keeps what is saved after an engine that was killed while it made its reserve", () => {
    using dir = tempDir();
    open(dir.path).close();
    tamper(dir.path, "CREATE TABLE reserve (filler BLOB)");
    const store = open(dir.path);
    store.save(record());
    const database = new Database(join(dir.path, "engine.db"));
    expect(database.prepare("SELECT id FROM sandboxes").all()).toEqual([{ id: ID }]);
    database.close();
    store.close();
  });

  it("lists in the order of creation, whatever the clock said", () => {
    using dir = tempDir();
    const store = open(dir.path);
    store.save(record({ createdAt: 2_000_000_000_000, name: "a" }));
    store.save(record({ id: "bbbbbbbbccccdddd", createdAt: 1, name: "b" }));
    store.save(record({ createdAt: 2_000_000_000_000, name: "a", error: "changed" }));
    expect(store.load().map(({ name }) => name)).toEqual(["a", "b"]);
    store.close();
  });

  it("refuses a database with garbage in its middle, and changes nothing of it", () => {
    using dir = tempDir();
    const path = join(dir.path, "engine.db");
    const store = open(dir.path);
    for (let i = 0; i < 200; i++) {
      const id = `aaaabbbbccccd${String.fromCharCode(97 + (i % 26), 97 + Math.floor(i / 26))}a`;
      store.save(record({ id, name: undefined }));
    }
    store.close();
    const bytes = readFileSync(path);
    bytes.fill(0xa5, 4096 * 3, 4096 * 40);
    writeFileSync(path, bytes);
    expect(() => open(dir.path)).toThrow(
      expect.objectContaining({ code: "internal", hint: expect.stringMatching(/backup/) }),
    );
    expect(readFileSync(path).equals(bytes)).toBe(true);
  });

  it("opens with what is whole of a log of changes that was cut short", () => {
    using dir = tempDir();
    using copy = tempDir();
    const store = open(dir.path);
    store.save(record({ name: "a" }));
    store.save(record({ id: "bbbbbbbbccccdddd", name: "b" }));
    // As the files of an engine that was killed lie there.
    for (const file of ["engine.db", "engine.db-wal"])
      copyFileSync(join(dir.path, file), join(copy.path, file));
    store.close();
    const log = join(copy.path, "engine.db-wal");
    const size = statSync(log).size;
    truncateSync(log, size - 100);
    const again = open(copy.path);
    for (const { name } of again.load()) expect(["a", "b"]).toContain(name);
    again.save(record({ id: "ccccbbbbccccdddd", name: "c" }));
    expect(again.load().map(({ name }) => name)).toContain("c");
    again.close();
  });

  it("says which file is no database", () => {
    using dir = tempDir();
    writeFileSync(join(dir.path, "engine.db"), "not a database, but long enough to look at ".repeat(50));
    expect(() => open(dir.path)).toThrow(
      expect.objectContaining({ code: "internal", hint: expect.any(String) }),
    );
  });
});
