import type { Duplex } from "node:stream";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { Runtime } from "../../src/contracts/runtime.ts";
import type { SandboxEvent } from "../../src/engine/events.ts";
import { openStore } from "../../src/engine/store.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { fakeRuntime, removeStateDir, testEngine } from "./support/engine.ts";
import { manualClock } from "./support/manual-clock.ts";
import { tempDir } from "./support/temp-dir.ts";

let dir: { path: string };
beforeEach(() => {
  dir = tempDir();
});
afterEach(() => removeStateDir(dir.path));

/** The fake runtime with some of its methods replaced. */
const withChanges = (changes: Partial<Runtime>) => ({
  change: (runtime: Runtime): Runtime => ({ ...runtime, ...changes }),
});

const failing = async () => {
  throw new WarrenError("runtime_failed", "the test wants it so");
};

describe("one engine per state directory", () => {
  it("refuses a second at once, and lets one in after the first", async () => {
    const first = await testEngine(dir.path);
    await expect(testEngine(dir.path)).rejects.toMatchObject({ code: "engine_locked" });
    const { id } = await first.engine.create({});
    await first.engine.close();
    await using second = await testEngine(dir.path);
    expect((await second.engine.get(id)).status).toBe("running");
  });

  it("lets go of the directory when it can't open", async () => {
    const runtime = await fakeRuntime(dir.path);
    const wrong = testEngine(dir.path, { defaultRuntime: "none", runtimes: { fake: runtime } });
    await expect(wrong).rejects.toMatchObject({ code: "invalid_request" });
    await (await testEngine(dir.path)).engine.close();
  });
});

describe("order of effects", () => {
  it("stores first, then acts, then tells", async () => {
    const log: string[] = [];
    // A second connection sees what is on disk and nothing that is only in memory.
    const stored = (id: string) => {
      const store = openStore(dir.path, silentLogger);
      const record = store.load().find((candidate) => candidate.id === id);
      store.close();
      return record?.state ?? "nothing";
    };
    const noting =
      <A extends unknown[], R>(name: string, id: (first: A[0]) => string, call: (...args: A) => Promise<R>) =>
      async (...args: A): Promise<R> => {
        log.push(`${name}: ${stored(id(args[0]))}`);
        return await call(...args);
      };
    const itself = (id: string) => id;
    await using opened = await testEngine(dir.path, {
      change: (runtime) => ({
        ...runtime,
        create: noting("create", (spec) => spec.id, runtime.create),
        start: noting("start", itself, runtime.start),
        stop: noting("stop", itself, runtime.stop),
        remove: noting("remove", itself, runtime.remove),
      }),
    });
    const { engine } = opened;
    engine.bus.subscribe(({ type, sandbox }: SandboxEvent) => {
      log.push(`${type}: ${stored(sandbox.id)}`);
    });
    const { id } = await engine.create({});
    await engine.stop(id);
    await engine.start(id);
    await engine.remove(id);
    expect(log).toEqual([
      "create: creating",
      "start: creating",
      "created: running",
      "stop: stopping",
      "stopped: stopped",
      "start: starting",
      "started: running",
      "remove: removing",
      "removed: nothing",
    ]);
  });

  it("survives a listener that throws", async () => {
    await using opened = await testEngine(dir.path);
    opened.engine.bus.subscribe(() => {
      throw new Error("a bug");
    });
    expect((await opened.engine.create({})).status).toBe("running");
  });
});

describe("creating", () => {
  it("leaves nothing when the start fails", async () => {
    await using opened = await testEngine(dir.path, withChanges({ start: failing }));
    await expect(opened.engine.create({ name: "x" })).rejects.toMatchObject({ code: "runtime_failed" });
    expect(await opened.engine.list()).toEqual([]);
    expect(await opened.runtime.list()).toEqual([]);
  });

  it("leaves nothing when its caller gives up in between", async () => {
    for (const method of ["create", "start"] as const) {
      const stop = new AbortController();
      await using opened = await testEngine(dir.path, {
        change: (runtime) => ({
          ...runtime,
          [method]: async (...args: unknown[]) => {
            stop.abort();
            const call = runtime[method] as (...given: unknown[]) => Promise<unknown>;
            return await call(args[0]); // one that does not look at the signal
          },
        }),
      });
      await expect(opened.engine.create({}, { signal: stop.signal })).rejects.toMatchObject({
        code: "cancelled",
      });
      expect(await opened.engine.list()).toEqual([]);
      expect(await opened.runtime.list()).toEqual([]);
    }
  });

  it("shows what could not be taken back, and removes it later", async () => {
    let remove = failing as Runtime["remove"];
    await using opened = await testEngine(dir.path, {
      change: (runtime) => {
        const real = runtime.remove;
        return {
          ...runtime,
          start: failing,
          remove: (id) => (remove === failing ? remove(id) : real(id)),
        };
      },
    });
    await expect(opened.engine.create({ name: "x" })).rejects.toMatchObject({ code: "runtime_failed" });
    expect(await opened.engine.list()).toMatchObject([{ name: "x", status: "error" }]);
    await expect(opened.engine.remove("x")).rejects.toMatchObject({ code: "runtime_failed" });
    remove = async () => {};
    await opened.engine.remove("x");
    expect(await opened.engine.list()).toEqual([]);
  });

  it("counts what is being made", async () => {
    await using opened = await testEngine(dir.path, { config: { maxSandboxes: 2 } });
    const { engine } = opened;
    const outcomes = await Promise.allSettled([engine.create({}), engine.create({}), engine.create({})]);
    expect(outcomes.map((outcome) => outcome.status)).toEqual(["fulfilled", "fulfilled", "rejected"]);
    expect(outcomes[2]).toMatchObject({ reason: { code: "too_many_sandboxes" } });
    const [first] = await engine.list();
    await engine.remove(first?.id ?? "");
    await engine.create({});
  });

  it("removes right after what is still being made", async () => {
    await using opened = await testEngine(dir.path);
    const { engine } = opened;
    const creating = engine.create({ name: "x" });
    expect(await engine.get("x")).toMatchObject({ status: "creating" });
    await expect(engine.exec("x", { cmd: ["true"] })).rejects.toMatchObject({ code: "sandbox_wrong_state" });
    const removing = engine.remove("x");
    expect((await creating).status).toBe("running");
    await removing;
    expect(await opened.runtime.list()).toEqual([]);
  });
});

describe("failing steps", () => {
  it("puts a sandbox into error whose start fails, and starts it again", async () => {
    let start: Runtime["start"] | undefined;
    await using opened = await testEngine(dir.path, {
      change: (runtime) => ({ ...runtime, start: (id) => (start ?? runtime.start)(id) }),
    });
    const { engine } = opened;
    const { id } = await engine.create({});
    await engine.stop(id);
    start = failing;
    await expect(engine.start(id)).rejects.toMatchObject({ code: "runtime_failed" });
    expect(await engine.get(id)).toMatchObject({ status: "error", error: "the test wants it so" });
    await expect(engine.exec(id, { cmd: ["true"] })).rejects.toMatchObject({ code: "sandbox_wrong_state" });
    start = undefined;
    expect(await engine.start(id)).toMatchObject({ status: "running" });
    expect(await engine.get(id)).not.toHaveProperty("error");
  });

  it("can still stop and remove a sandbox whose stop failed", async () => {
    let stop: Runtime["stop"] | undefined = failing;
    await using opened = await testEngine(dir.path, {
      change: (runtime) => ({ ...runtime, stop: (id, how) => (stop ?? runtime.stop)(id, how) }),
    });
    const { engine } = opened;
    const { id } = await engine.create({});
    await expect(engine.stop(id)).rejects.toMatchObject({ code: "runtime_failed" });
    expect(await engine.get(id)).toMatchObject({ status: "error" });
    stop = undefined;
    expect(await engine.stop(id)).toMatchObject({ status: "stopped" });
    await engine.remove(id);
  });
});

describe("memory kills", () => {
  const counting = (kills: { count: number }) => withChanges({ oomKills: () => kills.count });

  it("are told of a command only when it was killed and a kill was counted meanwhile", async () => {
    const kills = { count: 3 };
    await using opened = await testEngine(dir.path, counting(kills));
    const { engine } = opened;
    const { id } = await engine.create({});
    const killed = (script: string) => engine.exec(id, { cmd: ["sh", "-c", script] });
    expect(await killed("kill -9 $$")).not.toHaveProperty("oom_killed");
    // The counter rises while the next ones run.
    let runs = 0;
    const rising = async (script: string) => {
      const [here, go] = ["here", "go"].map((name) => `/tmp/${name}${++runs}`);
      const running = killed(`touch ${here}; until [ -e ${go} ]; do sleep 0.01; done; ${script}`);
      await expect.poll(async () => (await killed(`test -e ${here}`)).exit_code).toBe(0);
      kills.count += 1;
      await killed(`touch ${go}`);
      return await running;
    };
    expect(await rising("kill -9 $$")).toMatchObject({ exit_code: 137, oom_killed: true });
    expect(await rising("exit 137")).toMatchObject({ exit_code: 137, oom_killed: true });
    expect(await rising("exit 1")).not.toHaveProperty("oom_killed");
    const late = engine.exec(id, { cmd: ["sleep", "600"], timeout: 0.3 });
    kills.count += 1;
    expect(await late).not.toHaveProperty("oom_killed");
  });

  it("are told of a sandbox whose main command or first process they ended", async () => {
    const kills = { count: 0 };
    await using opened = await testEngine(dir.path, counting(kills));
    const { engine } = opened;
    const stopped = { timeout: 20_000 };
    const { id } = await engine.create({
      cmd: ["sh", "-c", "until [ -e /tmp/go ]; do sleep 0.01; done; kill -9 $$"],
    });
    kills.count = 1;
    // It may end under the command.
    await engine.exec(id, { cmd: ["touch", "/tmp/go"] }).catch(() => {});
    await expect
      .poll(() => engine.get(id), stopped)
      .toMatchObject({ status: "stopped", exit_code: 137, oom_killed: true });
    const { id: other, pid = 0 } = await engine.create({});
    process.kill(pid, "SIGKILL");
    await expect
      .poll(() => engine.get(other), stopped)
      .toMatchObject({ status: "stopped", oom_killed: true, error: /memory/ });
    kills.count = 0;
    expect(await engine.start(other)).not.toHaveProperty("oom_killed");
  });
});

describe("a guest that lives but does not answer", () => {
  it("shows as in error, is not killed for it, and is there again when it answers", async () => {
    const clock = manualClock();
    const connections = new Set<Duplex>();
    let silent = false;
    await using opened = await testEngine(dir.path, {
      clock,
      change: (runtime) => ({
        ...runtime,
        connect: async (id) => {
          if (silent) throw new WarrenError("guest_failed", "no file descriptor is left");
          const connection = await runtime.connect(id);
          connections.add(connection);
          return connection;
        },
      }),
    });
    const { engine, runtime } = opened;
    const { id, pid } = await engine.create({ timeout: -1 });
    const afterAWhile = async () => {
      clock.advance(5000);
      return (await engine.get(id)).status;
    };
    await expect.poll(() => connections.size).toBe(1); // the watch's
    silent = true;
    for (const connection of connections) connection.destroy(new Error("reset"));
    await expect.poll(afterAWhile, { timeout: 10_000 }).toBe("error");
    await expect(engine.exec(id, { cmd: ["true"] })).rejects.toMatchObject({ code: "sandbox_wrong_state" });
    expect(await runtime.inspect(id)).toMatchObject({ state: "running", pid });
    silent = false;
    await expect.poll(afterAWhile, { timeout: 10_000 }).toBe("running");
    expect(await engine.get(id)).not.toHaveProperty("error");
    expect((await engine.exec(id, { cmd: ["true"] })).exit_code).toBe(0);
    // The new watch works.
    process.kill(pid ?? 0, "SIGKILL");
    await expect.poll(afterAWhile, { timeout: 10_000 }).toBe("stopped");
  });
});

describe("bounds", () => {
  it("limits commands at one time, in one sandbox and in all", async () => {
    await using opened = await testEngine(dir.path, { config: { maxExecsPerSandbox: 2, maxExecs: 3 } });
    const { engine } = opened;
    const [one, two] = [await engine.create({}), await engine.create({})];
    const stop = new AbortController();
    const run = async (id: string) => await engine.execStream(id, { cmd: ["sleep", "600"] }, stop);
    const sessions = [await run(one.id), await run(one.id)];
    await expect(run(one.id)).rejects.toMatchObject({ code: "rate_limited" });
    sessions.push(await run(two.id));
    await expect(engine.exec(two.id, { cmd: ["true"] })).rejects.toMatchObject({ code: "rate_limited" });
    await sessions[0]?.[Symbol.asyncDispose]();
    await expect.poll(async () => (await engine.exec(one.id, { cmd: ["true"] })).exit_code).toBe(0);
    stop.abort();
    await Promise.allSettled(sessions.map((session) => session.exit));
    // A command that could not even be started gives its slot back too.
    for (let i = 0; i < 5; i++) {
      const nowhere = engine.exec(one.id, { cmd: ["true"], workdir: "/nowhere" });
      await expect(nowhere).rejects.toMatchObject({ code: "file_not_found" });
    }
    expect((await engine.exec(one.id, { cmd: ["true"] })).exit_code).toBe(0);
  });
});

describe("closing", () => {
  it("leaves sandboxes running, and ends what runs through it", async () => {
    const first = await testEngine(dir.path);
    const info = await first.engine.create({});
    const exec = first.engine.exec(info.id, { cmd: ["sleep", "600"] });
    const ended = expect(exec).rejects.toMatchObject({
      code: expect.stringMatching(/guest_failed|cancelled/),
    });
    const creating = first.engine.create({ name: "late" });
    await first.engine.close();
    await first.engine.close();
    await ended;
    expect((await creating).status).toBe("running");
    const calls = [
      first.engine.get(info.id),
      first.engine.list(),
      first.engine.create({}),
      first.engine.stop(info.id),
      first.engine.exec(info.id, { cmd: ["true"] }),
      first.engine.files.list(info.id, "/"),
      first.engine.stats(info.id),
      first.engine.version(),
    ];
    for (const call of calls) await expect(call).rejects.toMatchObject({ code: "shutting_down" });
    expect(await first.engine.health()).toMatchObject({ status: "unhealthy" });
    await using second = await testEngine(dir.path);
    expect(await second.engine.get(info.id)).toEqual(info);
    expect(await second.engine.get("late")).toMatchObject({ status: "running" });
  });

  it("stops sandboxes when asked to", async () => {
    const first = await testEngine(dir.path);
    const { id } = await first.engine.create({});
    await first.engine.close({ stopSandboxes: true });
    await using second = await testEngine(dir.path);
    expect(await second.engine.get(id)).toMatchObject({ status: "stopped" });
  });
});

describe("health", () => {
  it("tells why no sandbox can be made", async () => {
    await using opened = await testEngine(
      dir.path,
      withChanges({
        probe: async () => ({
          runtime: "fake",
          usable: false,
          findings: [{ level: "error", message: "nothing is installed" }],
        }),
      }),
    );
    expect(await opened.engine.health()).toMatchObject({
      status: "unhealthy",
      reason: "runtime unavailable: nothing is installed",
    });
  });
});
