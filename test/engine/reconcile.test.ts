import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import Database from "libsql";
import { describe, expect, it } from "vitest";
import type { SandboxInfo } from "../../src/contracts/sandbox.ts";
import { findMarked } from "../../src/runtimes/fake/processes.ts";
import { readAll } from "../../src/testing/guest-tools.ts";
import { crash } from "./support/crash.ts";
import { fakeRuntime, OWNER_ID, stateDir, testEngine } from "./support/engine.ts";

const processesOf = (id: string) => findMarked(`warren-fake:${OWNER_ID}:${id}`);

describe("an engine after one that was killed", () => {
  it("finds its sandboxes as they are, with exec working", { timeout: 60_000 }, async () => {
    const dir = stateDir();
    const before = (await crash(dir.path)) as SandboxInfo[];
    await using opened = await testEngine(dir.path);
    const { engine } = opened;
    expect(await engine.list()).toEqual(before);
    expect(before.map((info) => info.status)).toEqual(["running", "stopped", "running"]);
    const { body } = await engine.files.read("one", "/opt/file");
    expect((await readAll(body)).toString()).toBe("kept");
    expect((await engine.exec("three", { cmd: ["echo", "hi"] })).stdout).toBe("hi\n");
    await engine.start("two");
    expect((await engine.exec("two", { cmd: ["sh", "-c", "echo $A"] })).stdout).toBe("b\n");
    // The watch is there again: the end of the main command is seen.
    await engine.exec("three", { cmd: ["sh", "-c", "kill -TERM $(pgrep -x sleep)"] });
    await expect
      .poll(() => engine.get("three"), { timeout: 20_000 })
      .toMatchObject({
        status: "stopped",
        exit_code: 143,
      });
  });

  it("notes what died meanwhile", { timeout: 60_000 }, async () => {
    const dir = stateDir();
    const [one] = (await crash(dir.path)) as SandboxInfo[];
    process.kill(one?.pid ?? 0, "SIGKILL");
    await using opened = await testEngine(dir.path);
    const { engine } = opened;
    // It may still be dying while the engine opens; then its end is seen a moment later.
    await expect
      .poll(() => engine.get("one"), { timeout: 20_000 })
      .toMatchObject({ status: "stopped", error: expect.any(String) });
    expect(await engine.get("one")).not.toHaveProperty("pid");
    await engine.start("one");
    expect((await engine.exec("one", { cmd: ["cat", "/opt/file"] })).stdout).toBe("kept");
  });

  it.each([
    ["create", "before"],
    ["create", "after"],
    ["start", "before"],
    ["start", "after"],
  ])("leaves nothing of a sandbox whose create died in %s (%s it)", { timeout: 60_000 }, async (...point) => {
    const dir = stateDir();
    const { id } = (await crash(dir.path, ...point)) as { id: string };
    await using opened = await testEngine(dir.path);
    expect(await opened.engine.list()).toEqual([]);
    expect(await opened.runtime.list()).toEqual([]);
    // Where its volumes and snapshots would be stays.
    expect(readdirSync(join(dir.path, "fake")).sort()).toEqual([".snapshots", ".volumes"]);
    expect(processesOf(id)).toEqual([]);
    await opened.engine.create({ name: "one" });
  });

  it.each(["before", "after"])("finishes a stop that died %s it", { timeout: 60_000 }, async (when) => {
    const dir = stateDir();
    const { id } = (await crash(dir.path, "stop", when)) as { id: string };
    await using opened = await testEngine(dir.path);
    expect(await opened.engine.get(id)).toMatchObject({ status: "stopped" });
    expect(processesOf(id)).toEqual([]);
    await opened.engine.start(id);
    expect((await opened.engine.exec(id, { cmd: ["cat", "/opt/file"] })).stdout).toBe("kept");
  });

  it.each(["before", "after"])("finishes a removal that died %s it", { timeout: 60_000 }, async (when) => {
    const dir = stateDir();
    const { id } = (await crash(dir.path, "remove", when)) as { id: string };
    await using opened = await testEngine(dir.path);
    expect(await opened.engine.list()).toEqual([]);
    expect(await opened.runtime.list()).toEqual([]);
    expect(processesOf(id)).toEqual([]);
  });
});

describe("reconciling", () => {
  it("removes what is ours and in no record, and nothing else", async () => {
    const dir = stateDir();
    const runtime = await fakeRuntime(dir.path);
    const image = await runtime.images.ensure("host");
    const spec = {
      id: "orphanorphanorph",
      image,
      env: {},
      workdir: "/",
      hostname: "orphan",
      labels: {},
      network: "none" as const,
      isolation: "container" as const,
      readonlyRoot: false,
      tmpfs: [],
      mounts: [],
      limits: { memoryBytes: 0, cpuNano: 0, pids: 0 },
    };
    await runtime.create(spec);
    await runtime.start(spec.id);
    // What is no sandbox of the runtime is not the engine's to touch.
    mkdirSync(join(dir.path, "somebody-elses"));
    await using opened = await testEngine(dir.path);
    expect(await opened.engine.list()).toEqual([]);
    expect(await opened.runtime.list()).toEqual([]);
    expect(processesOf(spec.id)).toEqual([]);
    expect(readdirSync(dir.path)).toContain("somebody-elses");
  });

  it("marks a sandbox whose files are gone", async () => {
    const dir = stateDir();
    const first = await testEngine(dir.path);
    const { id } = await first.engine.create({});
    await first.engine.close();
    await first.runtime.remove(id);
    await using second = await testEngine(dir.path);
    expect(await second.engine.get(id)).toMatchObject({ status: "error", error: expect.any(String) });
    await expect(second.engine.start(id)).rejects.toMatchObject({ code: "runtime_failed" });
    await second.engine.remove(id);
    expect(await second.engine.list()).toEqual([]);
  });

  it("keeps the sandbox of a record that can't be read, until it is removed by hand", async () => {
    const dir = stateDir();
    const first = await testEngine(dir.path);
    const { id } = await first.engine.create({ name: "broken" });
    const { id: whole } = await first.engine.create({});
    await first.engine.close();
    const database = new Database(join(dir.path, "engine.db"));
    database.prepare("UPDATE sandboxes SET request = '{' WHERE id = ?").run(id);
    database.close();
    await using second = await testEngine(dir.path);
    expect((await second.engine.list()).map((info) => info.id)).toEqual([whole]);
    expect((await second.runtime.inspect(id))?.state).toBe("running");
    await second.engine.remove(id);
    expect(await second.runtime.inspect(id)).toBeUndefined();
    await expect(second.engine.remove(id)).rejects.toMatchObject({ code: "sandbox_not_found" });
  });

  it("leaves sandboxes of a runtime that is not configured now, and says so", async () => {
    const dir = stateDir();
    const first = await testEngine(dir.path);
    const info = await first.engine.create({});
    await first.engine.close();
    const other = { ...(await fakeRuntime(dir.path)), name: "other", list: async () => [] };
    const second = await testEngine(dir.path, { runtimes: { other }, defaultRuntime: "other" });
    expect(await second.engine.get(info.id)).toMatchObject({ status: "error" });
    await expect(second.engine.exec(info.id, { cmd: ["true"] })).rejects.toMatchObject({
      code: "runtime_unavailable",
    });
    await expect(second.engine.remove(info.id)).rejects.toMatchObject({ code: "runtime_unavailable" });
    await second.engine.close();
    await using third = await testEngine(dir.path);
    expect(await third.engine.get(info.id)).toEqual(info);
  });

  it("opens even when a runtime can't list, and forgets nothing", async () => {
    const dir = stateDir();
    const first = await testEngine(dir.path);
    const { id } = await first.engine.create({});
    await first.engine.close();
    const second = await testEngine(dir.path, {
      change: (runtime) => ({
        ...runtime,
        list: async () => {
          throw new Error("no answer");
        },
      }),
    });
    // Nobody can tell how it is.
    expect(await second.engine.get(id)).toMatchObject({
      status: "error",
      error: expect.stringContaining("no answer"),
    });
    await second.engine.close();
    await using third = await testEngine(dir.path);
    expect((await third.engine.exec(id, { cmd: ["true"] })).exit_code).toBe(0);
  });
});
