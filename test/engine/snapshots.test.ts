import { readdirSync } from "node:fs";
import { join } from "node:path";
import Database from "libsql";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Runtime } from "../../src/contracts/runtime.ts";
import { type Engine, openEngine } from "../../src/engine/engine.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { openFakeRuntime } from "../../src/runtimes/fake/runtime.ts";
import { expectFailure } from "../../src/testing/failures.ts";
import { removeStateDir } from "./support/engine.ts";
import { tempDir } from "./support/temp-dir.ts";

describe("snapshots of an engine", () => {
  let dir: ReturnType<typeof tempDir>;
  let engine: Engine;
  let runtime: Runtime;
  const open = async (change: (fake: Runtime) => Runtime = (fake) => fake) => {
    const fake = await openFakeRuntime({ stateDir: dir.path, ownerId: "testtest", log: silentLogger });
    runtime = change(fake);
    engine = await openEngine({
      stateDir: dir.path,
      runtimes: { fake: runtime },
      defaultRuntime: "fake",
      log: silentLogger,
    });
  };
  beforeEach(async () => {
    dir = tempDir();
    await open();
  });
  afterEach(async () => {
    for (const { id } of await engine.list()) await engine.remove(id);
    for (const { id } of await engine.snapshots.list()) await engine.snapshots.remove(id);
    await engine.close();
    expect(readdirSync(join(dir.path, "fake/.snapshots"))).toEqual([]);
    await removeStateDir(dir.path);
  });
  const database = <T>(work: (database: Database.Database) => T): T => {
    const opened = new Database(join(dir.path, "engine.db"));
    try {
      return work(opened);
    } finally {
      opened.close();
    }
  };
  const sealed = () => readdirSync(join(dir.path, "secrets")).filter((name) => name.endsWith(".sealed"));
  const files = () => readdirSync(join(dir.path, "fake/.snapshots"));
  const secrets = [{ name: "A", hosts: ["api.test"], value: "value-0123456789" }];

  it("outlive the engine; the next one removes what is half made and what is in no record", async () => {
    const { id } = await engine.create({ secrets });
    const kept = await engine.snapshots.create(id, { name: "kept" });
    const half = await engine.snapshots.create(id, { name: "half" });
    const removed = await engine.snapshots.create(id, { name: "removed" });
    const stray = await engine.snapshots.create(id, { name: "stray" });
    await engine.close();
    database((db) => {
      db.prepare("UPDATE snapshots SET state = 'creating', image = NULL WHERE id = ?").run(half.id);
      db.prepare("UPDATE snapshots SET state = 'removing' WHERE id = ?").run(removed.id);
      db.prepare("DELETE FROM snapshots WHERE id = ?").run(stray.id);
    });
    await open();
    expect(await engine.snapshots.list()).toEqual([kept]);
    expect(files()).toEqual([kept.id]);
    expect(sealed().sort()).toEqual([`${id}.sealed`, `${kept.id}.sealed`].sort());
    await engine.remove(id);
    expect(await engine.snapshots.restore(kept.id)).toMatchObject({ secrets: [{ name: "A" }] });
  });

  it("are left alone when their record can't be read, until they are removed", async () => {
    const { id } = await engine.create({ secrets });
    const broken = await engine.snapshots.create(id);
    await engine.close();
    database((db) => db.prepare("UPDATE snapshots SET settings = '{' WHERE id = ?").run(broken.id));
    await open();
    expect(await engine.snapshots.list()).toEqual([]);
    expect(files()).toEqual([broken.id]);
    expect(sealed()).toContain(`${broken.id}.sealed`);
    await engine.snapshots.remove(broken.id);
    expect([files(), sealed()]).toEqual([[], [`${id}.sealed`]]);
    await expectFailure(engine.snapshots.remove(broken.id), "snapshot_not_found");
  });

  it("say that their files are gone, and are not restored then", async () => {
    const { id } = await engine.create({});
    const lost = await engine.snapshots.create(id);
    await engine.close();
    await runtime.snapshots?.remove(lost.id);
    await open();
    expect(await engine.snapshots.get(lost.id)).toMatchObject({ error: expect.stringContaining("gone") });
    await expectFailure(engine.snapshots.restore(lost.id), "image_invalid");
    expect(await engine.list()).toHaveLength(1);
  });

  it("leave nothing when the runtime fails, and wait for restores before they go", async () => {
    const { id } = await engine.create({ secrets });
    await engine.close();
    let fail = true;
    let goOn = () => {};
    let isHeld: Promise<void> | undefined;
    await open((fake) => ({
      ...fake,
      async create(spec, options) {
        await isHeld;
        await fake.create(spec, options);
      },
      ...(fake.snapshots && {
        snapshots: {
          ...fake.snapshots,
          async create(sandbox, snapshot, options) {
            const made = await fake.snapshots?.create(sandbox, snapshot, options);
            if (fail || !made) throw new Error("the disk is on fire");
            return made;
          },
        },
      }),
    }));
    const error = await expectFailure(engine.snapshots.create(id), "runtime_failed");
    expect(error.message).not.toContain("fire");
    expect([await engine.snapshots.list(), files(), sealed()]).toEqual([[], [], [`${id}.sealed`]]);
    fail = false;
    const { id: made } = await engine.snapshots.create(id);
    isHeld = new Promise((resolve) => {
      goOn = resolve;
    });
    const restoring = engine.snapshots.restore(made);
    await expect.poll(async () => (await engine.list()).length).toBe(2);
    const removing = engine.snapshots.remove(made);
    await expect.poll(() => engine.snapshots.list()).toEqual([]);
    await expectFailure(engine.snapshots.restore(made), "snapshot_not_found");
    expect(files()).toEqual([made]);
    goOn();
    expect(await restoring).toMatchObject({ status: "running", snapshot_id: made });
    await removing;
    expect(files()).toEqual([]);
  });

  it("are refused where what they need can't be had any more", async () => {
    const { id } = await engine.create({ readonly_fs: true, network_mode: "filtered" });
    const { id: made } = await engine.snapshots.create(id);
    for (const lacking of [{ readonlyRoot: false }, { networkModes: ["none" as const] }]) {
      await engine.close();
      await open((fake) => ({ ...fake, capabilities: { ...fake.capabilities, ...lacking } }));
      await expectFailure(engine.snapshots.restore(made), "unsupported");
    }
    expect(await engine.list()).toHaveLength(1);
  });
});
