import { existsSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { Runtime } from "../../src/contracts/runtime.ts";
import { openEngine } from "../../src/engine/engine.ts";
import { createDeferred } from "../../src/lib/deferred.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { within } from "../../src/testing/wait.ts";
import { fakeRuntime, stateDir, testEngine } from "./support/engine.ts";

const withVolume = (name: string) => ({ storage: { volumes: [{ name, mount_path: "/v" }] } });

/** A runtime whose next create waits until it is let go. */
function slowCreates() {
  const reached = createDeferred<void>();
  const go = createDeferred<void>();
  return {
    reached: reached.promise,
    go: () => go.resolve(),
    change: (runtime: Runtime): Runtime => ({
      ...runtime,
      async create(spec, options) {
        reached.resolve();
        await go.promise;
        await runtime.create(spec, options);
      },
    }),
  };
}

describe("a volume of a sandbox that is being created", () => {
  it("is not removed", async () => {
    const slow = slowCreates();
    await using made = await testEngine(stateDir().path, { change: slow.change });
    const { engine } = made;
    const creating = engine.create(withVolume("v"));
    await slow.reached;
    await expect(engine.volumes.remove("v")).rejects.toMatchObject({ code: "in_use" });
    slow.go();
    const { id } = await creating;
    expect((await engine.exec(id, { cmd: ["test", "-d", "/v"] })).exit_code).toBe(0);
    await engine.remove(id);
  });

  it("goes by force once the sandbox is there and was removed, and nobody waits for each other", async () => {
    const slow = slowCreates();
    await using made = await testEngine(stateDir().path, { change: slow.change });
    const { engine } = made;
    const creating = engine.create(withVolume("v"));
    await slow.reached;
    const removing = engine.volumes.remove("v", { force: true });
    // Another that wants it comes while it goes.
    const second = engine.create(withVolume("v"));
    slow.go();
    await within(20_000, "all three", Promise.all([creating, removing, second]));
    const left = await engine.list();
    const volumes = await engine.volumes.list();
    expect(volumes.length).toBe(left.length === 0 ? 0 : 1);
    for (const { id } of left) await engine.remove(id);
  });

  it("is there again for a sandbox that came while it was removed", async () => {
    const removing = createDeferred<void>();
    const go = createDeferred<void>();
    const change = (runtime: Runtime): Runtime => {
      const { volumes } = runtime;
      if (!volumes) throw new Error("the fake has volumes");
      return {
        ...runtime,
        volumes: {
          ...volumes,
          async remove(name) {
            removing.resolve();
            await go.promise;
            await volumes.remove(name);
          },
        },
      };
    };
    await using made = await testEngine(stateDir().path, { change });
    const { engine } = made;
    await engine.volumes.create({ name: "v", labels: { old: "yes" } });
    const removed = engine.volumes.remove("v");
    await removing.promise;
    const created = engine.create(withVolume("v"));
    go.resolve();
    await removed;
    const { id } = await created;
    expect(await engine.volumes.get("v")).toMatchObject({ labels: {} });
    expect((await engine.exec(id, { cmd: ["sh", "-c", "echo x > /v/f"] })).exit_code).toBe(0);
    await engine.remove(id);
  });
});

it("leaves a volume whole that something else uses, force or not", async () => {
  const change = (runtime: Runtime): Runtime => {
    const { volumes } = runtime;
    if (!volumes) throw new Error("the fake has volumes");
    return {
      ...runtime,
      volumes: {
        ...volumes,
        async remove(_name, options) {
          if (options?.force) throw new Error("must not be forced: what is left is not ours");
          throw new WarrenError("in_use", "a stranger's container has it");
        },
      },
    };
  };
  await using made = await testEngine(stateDir().path, { change });
  const { engine } = made;
  await engine.volumes.create({ name: "v" });
  await expect(engine.volumes.remove("v", { force: true })).rejects.toMatchObject({
    code: "in_use",
    message: "a stranger's container has it",
  });
  expect(await engine.volumes.get("v")).toMatchObject({ name: "v" });
});

it("keeps volumes for the next engine, and knows who has them", async () => {
  const { path } = stateDir();
  let id = "";
  {
    await using made = await testEngine(path);
    ({ id } = await made.engine.create(withVolume("kept")));
    await made.engine.exec(id, { cmd: ["sh", "-c", "echo data > /v/f"] });
    await made.engine.stop(id, { timeoutMs: 0 });
  }
  await using made = await testEngine(path);
  const { engine } = made;
  await expect(engine.volumes.remove("kept")).rejects.toMatchObject({ code: "in_use" });
  await engine.start(id);
  expect((await engine.exec(id, { cmd: ["cat", "/v/f"] })).stdout).toBe("data\n");
  const { mountpoint = "" } = await engine.volumes.get("kept");
  expect(existsSync(mountpoint)).toBe(true);
  await engine.volumes.remove("kept", { force: true });
  expect(existsSync(mountpoint)).toBe(false);
  expect(await engine.list()).toEqual([]);
});

it("asks all runtimes that have volumes, and one by its name", async () => {
  const dirs = [stateDir(), stateDir(), stateDir()] as const;
  const named = async (path: string, name: string): Promise<Runtime> => {
    const runtime = await fakeRuntime(path);
    const { volumes } = runtime;
    if (!volumes) throw new Error("the fake has volumes");
    return {
      ...runtime,
      name,
      volumes: {
        ...volumes,
        list: async (prefix) => (await volumes.list(prefix)).map((info) => ({ ...info, runtime: name })),
      },
    };
  };
  const { volumes: _, ...without } = await named(dirs[2].path, "without");
  const engine = await openEngine({
    stateDir: dirs[0].path,
    runtimes: { one: await named(dirs[0].path, "one"), two: await named(dirs[1].path, "two"), without },
    defaultRuntime: "one",
    log: silentLogger,
  });
  try {
    await engine.volumes.create({ name: "b" });
    await engine.volumes.create({ name: "a", runtime: "two" });
    await engine.volumes.create({ name: "b", runtime: "two" });
    const all = (await engine.volumes.list()).map(({ name, runtime }) => `${name} ${runtime}`);
    expect(all).toEqual(["a two", "b one", "b two"]);
    expect((await engine.volumes.list({ runtime: "one" })).map(({ name }) => name)).toEqual(["b"]);
    await expect(engine.volumes.get("a")).rejects.toMatchObject({ code: "volume_not_found" });
    await engine.volumes.remove("b");
    expect(await engine.volumes.get("b", { runtime: "two" })).toMatchObject({ name: "b" });
    for (const call of [
      engine.volumes.list({ runtime: "without" }),
      engine.volumes.create({ name: "v", runtime: "without" }),
    ]) {
      await expect(call).rejects.toMatchObject({
        code: "unsupported",
        message: "the runtime without has no volumes",
      });
    }
  } finally {
    await engine.close();
  }
});

it("refuses everything once the engine closes", async () => {
  const made = await testEngine(stateDir().path);
  await made.engine.close();
  const { volumes, prune } = made.engine;
  for (const call of [
    () => volumes.create({ name: "v" }),
    () => volumes.get("v"),
    () => volumes.list(),
    () => volumes.usage(),
    () => volumes.remove("v"),
    () => prune(),
  ]) {
    await expect(call()).rejects.toMatchObject({ code: "shutting_down" });
  }
});

it("tells of a stopped sandbox that could not be pruned, and prunes the others", async () => {
  let stuck = "";
  const change = (runtime: Runtime): Runtime => ({
    ...runtime,
    async remove(id) {
      if (id === stuck) throw new WarrenError("runtime_failed", "it does not go");
      await runtime.remove(id);
    },
  });
  await using made = await testEngine(stateDir().path, { change });
  const { engine } = made;
  const [one, two] = await Promise.all([engine.create({}), engine.create({})]);
  for (const { id } of [one, two]) await engine.stop(id, { timeoutMs: 0 });
  stuck = one.id;
  expect(await engine.prune()).toEqual({
    removed: [two.id],
    failed: [{ id: one.id, error: "it does not go" }],
  });
  expect(await engine.list()).toMatchObject([{ id: one.id, status: "error", error: "it does not go" }]);
  // In error now: whoever wants it gone says so.
  expect(await engine.prune()).toEqual({ removed: [], failed: [] });
  stuck = "";
  await engine.remove(one.id);
});
