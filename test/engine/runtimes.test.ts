import { join } from "node:path";
import Database from "libsql";
import { describe, expect, it, onTestFinished } from "vitest";
import type { SandboxInfo } from "../../src/contracts/sandbox.ts";
import type { Engine, EngineOptions } from "../../src/engine/engine.ts";
import type { RuntimeOpener } from "../../src/engine/runtimes.ts";
import { fakeRuntime, stateDir, testEngine } from "./support/engine.ts";
import { manualClock } from "./support/manual-clock.ts";
import { type Outpost, outpost } from "./support/outpost.ts";

function outpostIn(dir: { path: string }, name?: string): Outpost {
  const post = outpost(dir.path, name);
  onTestFinished(() => post.clear());
  return post;
}

/** An engine whose default runtime is the fake one, and that may use the outposts. */
async function engineWith(
  dir: { path: string },
  posts: readonly Outpost[],
  options: Partial<EngineOptions> = {},
): Promise<{ engine: Engine } & AsyncDisposable> {
  const openers = Object.fromEntries(posts.map(({ name, open }): [string, RuntimeOpener] => [name, open]));
  return await testEngine(dir.path, {
    runtimes: { fake: await fakeRuntime(dir.path), ...openers },
    ...options,
  });
}

/** A state directory that an engine has left with a running sandbox in the outpost. */
async function leftBehind(dir: { path: string }, post: Outpost): Promise<SandboxInfo> {
  const { engine } = await engineWith(dir, [post]);
  const info = await engine.create({ runtime: post.name });
  await engine.close();
  return info;
}

const isAway = {
  code: "runtime_unavailable",
  message: expect.stringContaining("the daemon is not running"),
  hint: "systemctl start outpost",
};
const shownAway = { status: "error", error: expect.stringContaining("the daemon is not running") };
const works = async (engine: Engine, id: string) =>
  expect((await engine.exec(id, { cmd: ["echo", "hi"] })).stdout).toBe("hi\n");

describe("a runtime beside the default one", () => {
  it("is opened at its first use, once for all who ask meanwhile", async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    await using opened = await engineWith(dir, [post]);
    const { engine } = opened;
    expect((await engine.create({})).runtime).toBe("fake");
    expect(post.opened).toBe(0);
    const three = await Promise.all([1, 2, 3].map(() => engine.create({ runtime: "outpost" })));
    expect(three.map((info) => info.runtime)).toEqual(["outpost", "outpost", "outpost"]);
    expect(post.opened).toBe(1);
    for (const { id } of three) await works(engine, id);
    expect((await (await post.inside()).list()).map(({ id }) => id).sort()).toEqual(
      three.map(({ id }) => id).sort(),
    );
    await engine.remove(three[0]?.id ?? "");
    expect((await (await post.inside()).list()).length).toBe(2);
  });

  it("is one of those that were given", async () => {
    const dir = stateDir();
    await using opened = await engineWith(dir, [outpostIn(dir)]);
    await expect(opened.engine.create({ runtime: "moon" })).rejects.toMatchObject({
      code: "unsupported",
      hint: "choose one of: fake, outpost",
    });
  });

  it("can be absent: a create says why, leaves nothing, and the next one tries again", async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    await using opened = await engineWith(dir, [post]);
    const { engine } = opened;
    post.goAway();
    await expect(engine.create({ runtime: "outpost" })).rejects.toMatchObject(isAway);
    await expect(engine.create({ runtime: "outpost" })).rejects.toMatchObject(isAway);
    expect(post.opened).toBe(2);
    expect(await engine.list()).toEqual([]);
    expect((await engine.create({})).runtime).toBe("fake");
    post.comeBack();
    await works(engine, (await engine.create({ runtime: "outpost" })).id);
  });

  it("is not asked for again in the background when it has nothing of ours", async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    const clock = manualClock(Date.now());
    await using opened = await engineWith(dir, [post], { clock });
    post.goAway();
    await expect(opened.engine.create({ runtime: "outpost" })).rejects.toMatchObject(isAway);
    clock.advance(3_600_000);
    expect(post.opened).toBe(1);
  });

  it("tells a failure that is none of ours as one that is", async () => {
    const dir = stateDir();
    const runtimes = {
      fake: await fakeRuntime(dir.path),
      odd: async () => {
        throw new Error("EPERM of something");
      },
    };
    await using opened = await testEngine(dir.path, { runtimes });
    await expect(opened.engine.create({ runtime: "odd" })).rejects.toMatchObject({
      code: "runtime_unavailable",
      message: "the runtime odd can't be used now: EPERM of something",
      hint: expect.stringContaining("warren doctor"),
    });
  });

  it("shows in what the server can do, and in its health", async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    await leftBehind(dir, post);
    post.goAway();
    await using opened = await engineWith(dir, [post, outpostIn(dir, "other")]);
    const { engine } = opened;
    expect(await engine.health()).toMatchObject({
      status: "ok",
      reason: expect.stringContaining("the daemon is not running"),
    });
    const tokens = async () =>
      (await engine.version()).features.filter((feature) => feature.startsWith("runtime:"));
    expect(await tokens()).toEqual(["runtime:fake", "runtime:other"]);
    post.comeBack();
    await engine.create({ runtime: "outpost" });
    expect(await tokens()).toEqual(["runtime:fake", "runtime:outpost", "runtime:other"]);
    expect(await engine.health()).not.toHaveProperty("reason");
  });
});

describe("an engine that finds sandboxes in a runtime", () => {
  it("opens it at once, and adopts them", async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    const info = await leftBehind(dir, post);
    await using opened = await engineWith(dir, [post]);
    expect(await opened.engine.list()).toEqual([info]);
    await works(opened.engine, info.id);
  });

  it("opens it for what it has left there, too, when no record names it", async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    const { id } = await leftBehind(dir, post);
    const database = new Database(join(dir.path, "engine.db"));
    database.prepare("DELETE FROM sandboxes WHERE id = ?").run(id);
    database.close();
    await using _ = await engineWith(dir, [post]);
    expect(await (await post.inside()).inspect(id)).toBeUndefined();
  });

  it("runs without it, says so of each, and has them back as they were", async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    const info = await leftBehind(dir, post);
    post.goAway();
    const clock = manualClock(Date.now());
    await using opened = await engineWith(dir, [post], { clock });
    const { engine } = opened;
    expect(await engine.list()).toMatchObject([{ id: info.id, ...shownAway }]);
    const { id } = info;
    for (const call of [
      () => engine.exec(id, { cmd: ["true"] }),
      () => engine.stop(id),
      () => engine.start(id),
      () => engine.remove(id),
      () => engine.stats(id),
      () => engine.files.stat(id, "/"),
    ]) {
      await expect(call()).rejects.toMatchObject(isAway);
    }
    expect((await engine.create({})).status).toBe("running");
    post.comeBack();
    clock.advance(30_000);
    await expect.poll(() => engine.get(id)).toEqual(info);
    await works(engine, id);
  });

  it("has them back at the next use, without waiting for the next try", async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    const info = await leftBehind(dir, post);
    post.goAway();
    await using opened = await engineWith(dir, [post], { clock: manualClock(Date.now()) });
    post.comeBack();
    await works(opened.engine, info.id);
    expect(await opened.engine.get(info.id)).toEqual(info);
  });

  it("tries at a bounded rate: after 1 s, 2 s, 4 s and so on, then each 30 s", async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    await leftBehind(dir, post);
    post.goAway();
    const clock = manualClock(Date.now());
    await using _ = await engineWith(dir, [post], { clock });
    const before = post.opened;
    const tries: number[] = [];
    for (let second = 1; second <= 122; second++) {
      const known = post.opened;
      clock.advance(1000);
      if (post.opened > known) tries.push(second);
      // The try is over, and the next one set, before time goes on.
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    expect(tries).toEqual([1, 3, 7, 15, 31, 61, 91, 121]);
    expect(post.opened - before).toBe(tries.length);
  });

  it("notes what died meanwhile and removes orphans, however late it gets there", async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    const dead = await leftBehind(dir, post);
    const inside = await post.inside();
    const orphan = "orphanorphanorph";
    const image = await inside.images.ensure("host");
    await inside.create({
      id: orphan,
      image,
      env: {},
      workdir: "/",
      hostname: "orphan",
      labels: {},
      network: "none",
      isolation: "container",
      readonlyRoot: false,
      tmpfs: [],
      mounts: [],
      limits: { memoryBytes: 0, cpuNano: 0, pids: 0 },
    });
    post.goAway();
    const clock = manualClock(Date.now());
    await using opened = await engineWith(dir, [post], { clock });
    const waiting = opened.engine.wait(dead.id);
    await inside.stop(dead.id, { timeoutMs: 0 });
    post.comeBack();
    clock.advance(1000);
    expect(await waiting).toMatchObject({ status: "stopped" });
    await expect.poll(() => opened.engine.get(dead.id)).toMatchObject({ status: "stopped" });
    await expect.poll(() => inside.inspect(orphan)).toBeUndefined();
  });

  it("starts beside one that hangs, and closes beside it", { timeout: 60_000 }, async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    const info = await leftBehind(dir, post);
    post.hang();
    const { engine } = await engineWith(dir, [post]);
    expect(await engine.get(info.id)).toMatchObject({
      status: "error",
      error: "the runtime outpost is still being opened",
    });
    expect((await engine.create({})).status).toBe("running");
    const stop = new AbortController();
    const create = engine.create({ runtime: "outpost" }, { signal: stop.signal });
    stop.abort();
    await expect(create).rejects.toMatchObject({ code: "cancelled" });
    const exec = engine.exec(info.id, { cmd: ["true"] });
    const closed = engine.close();
    await expect(exec).rejects.toMatchObject({ code: "shutting_down" });
    await closed;
    // Now that it opens, it does not touch what may be another engine's.
    const inside = await post.inside();
    post.comeBack();
    await using second = await engineWith(dir, [post]);
    await works(second.engine, info.id);
    expect((await inside.list()).map(({ id }) => id)).toEqual([info.id]);
  });

  it("keeps several apart", async () => {
    const dir = stateDir();
    const [one, two] = [outpostIn(dir, "one"), outpostIn(dir, "two")];
    const first = await engineWith(dir, [one, two]);
    const a = await first.engine.create({ runtime: "one" });
    const b = await first.engine.create({ runtime: "two" });
    const c = await first.engine.create({});
    await first.engine.close();
    two.goAway();
    await using second = await engineWith(dir, [one, two]);
    const { engine } = second;
    expect(await engine.list()).toMatchObject([a, { id: b.id, ...shownAway }, c]);
    await works(engine, a.id);
    await works(engine, c.id);
    two.comeBack();
    await works(engine, b.id);
    expect(await engine.list()).toEqual([a, b, c]);
  });

  it("keeps the sandbox of a record that can't be read until every runtime can be asked", async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    const { id } = await leftBehind(dir, post);
    const database = new Database(join(dir.path, "engine.db"));
    database.prepare("UPDATE sandboxes SET request = '{' WHERE id = ?").run(id);
    database.close();
    post.goAway();
    await using opened = await engineWith(dir, [post]);
    await expect(opened.engine.remove(id)).rejects.toMatchObject(isAway);
    post.comeBack();
    await opened.engine.remove(id);
    expect(await (await post.inside()).inspect(id)).toBeUndefined();
  });
});

describe("a runtime whose daemon dies while the engine runs", () => {
  it("loses nothing: calls say why, and all is as before when it is back", async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    const clock = manualClock(Date.now());
    await using opened = await engineWith(dir, [post], { clock });
    const { engine } = opened;
    const info = await engine.create({ runtime: "outpost" });
    const idle = await engine.create({ runtime: "outpost" });
    await engine.stop(idle.id);
    const types: string[] = [];
    engine.bus.subscribe(({ type }) => types.push(type));
    let waited = false;
    engine.wait(info.id).then(
      () => {
        waited = true;
      },
      () => {}, // the engine closes
    );

    post.goAway();
    await expect.poll(() => engine.get(info.id)).toMatchObject(shownAway);
    await expect(engine.exec(info.id, { cmd: ["true"] })).rejects.toMatchObject(isAway);
    await expect(engine.start(idle.id)).rejects.toMatchObject(isAway);
    await expect(engine.create({ runtime: "outpost" })).rejects.toMatchObject(isAway);
    // Longer than any patience with a guest that does not answer.
    for (let n = 0; n < 20; n++) {
      clock.advance(5000);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect((await engine.list()).map(({ id }) => id)).toEqual([info.id, idle.id]);

    post.comeBack();
    for (let n = 0; n < 3; n++) {
      clock.advance(30_000);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await expect.poll(() => engine.get(info.id)).toEqual(info);
    await works(engine, info.id);
    expect(waited).toBe(false);
    expect(types).not.toContain("stopped");
    await engine.start(idle.id);
    await works(engine, idle.id);
    // It is watched again.
    const inside = await post.inside();
    await inside.stop(info.id, { timeoutMs: 0 });
    await expect.poll(() => engine.get(info.id)).toMatchObject({ status: "stopped" });
  });

  it("takes a stop and a removal that could not be done for what they are", async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    const clock = manualClock(Date.now());
    await using opened = await engineWith(dir, [post], { clock });
    const { engine } = opened;
    const one = await engine.create({ runtime: "outpost" });
    const two = await engine.create({ runtime: "outpost" });
    post.goAway();
    await expect(engine.stop(one.id)).rejects.toMatchObject(isAway);
    await expect(engine.remove(two.id)).rejects.toMatchObject(isAway);
    post.comeBack();
    clock.advance(30_000);
    await expect.poll(() => engine.list()).toEqual([one, two]);
    await works(engine, one.id);
    await works(engine, two.id);
    await engine.stop(one.id);
    await engine.remove(two.id);
    expect(await engine.list()).toMatchObject([{ id: one.id, status: "stopped" }]);
  });

  it("leaves nothing of a create that it died in", async () => {
    const dir = stateDir();
    const post = outpostIn(dir);
    const clock = manualClock(Date.now());
    const dying: Outpost = {
      ...post,
      open: async () => {
        const runtime = await post.open();
        return {
          ...runtime,
          create: async (spec) => {
            await runtime.create(spec);
            post.goAway();
          },
        };
      },
    };
    await using opened = await engineWith(dir, [dying], { clock });
    await expect(opened.engine.create({ runtime: "outpost", name: "x" })).rejects.toMatchObject(isAway);
    expect(await opened.engine.list()).toEqual([]);
    const inside = await post.inside();
    expect((await inside.list()).length).toBe(1);
    post.comeBack();
    clock.advance(30_000);
    await expect.poll(() => inside.list()).toEqual([]);
  });
});
