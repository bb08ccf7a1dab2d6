import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { ExecSession } from "../../src/contracts/exec.ts";
import type { CreateSandbox } from "../../src/contracts/sandbox.ts";
import { guestMemoryBytes } from "../../src/runtimes/common/payload-groups.ts";
import { ATTACKS, type Lab, openLab, outputOf } from "./support/lab.ts";
import { processesOf } from "./support/leftovers.ts";

const MIB = 1024 ** 2;
/** What is bombed. */
const limits = { memory: 96 * MIB, pid_limit: 48 } satisfies Partial<CreateSandbox>;
/** How long another sandbox may take for a command, in milliseconds: it answers, whatever the machine's speed. */
const NEIGHBOUR_MS = 5_000;
/** Beside what fills it, a sandbox has less than this in memory, and what is removed leaves less behind. */
const SLACK_BYTES = 12 * MIB;

let lab: Lab;
let victim: string;
let neighbour: string;

beforeAll(async () => {
  lab = await openLab({ programs: ["bomb", "sabotage", "fds", "cat"] });
  neighbour = await lab.sandbox();
});
afterAll(() => lab?.[Symbol.asyncDispose]());
beforeEach(async () => {
  victim = await lab.sandbox(limits);
});
afterEach(async () => {
  // Some tests have removed it themselves.
  await lab.engine.remove(victim).catch((error: unknown) => {
    expect(error).toMatchObject({ code: "sandbox_not_found" });
  });
  expect(await processesOf(lab.ownerId, victim)).toEqual([]);
});

async function probeNeighbour(): Promise<void> {
  const started = performance.now();
  outputOf(await lab.attack(neighbour, "fds"));
  expect(performance.now() - started).toBeLessThan(NEIGHBOUR_MS);
}

/** Asks the other sandbox again and again until `work` is done, and at least three times. */
async function whileProbing<T>(work: Promise<T>): Promise<T> {
  let done = false;
  const settled = work.finally(() => {
    done = true;
  });
  settled.catch(() => {}); // told to whoever waits below
  for (let i = 0; i < 3 || !done; i++) await probeNeighbour();
  return await settled;
}

const bomb = (args: string[], options: { timeout?: number; user?: string } = {}) =>
  lab.attack(victim, "bomb", args, options);

/** The guest of the bombed sandbox still serves. */
async function answers(): Promise<void> {
  expect((await lab.engine.get(victim)).status).toBe("running");
  outputOf(await lab.attack(victim, "fds"));
}

async function firstLine(session: ExecSession): Promise<string> {
  for await (const { data } of session.output) return Buffer.from(data).toString();
  return "";
}

const processesInside = async () => (await lab.engine.stats(victim)).pid_count;

describe("processes", () => {
  it("a fork bomb is held by the limit, and ended by its timeout", async () => {
    const result = await whileProbing(bomb(["fork"], { timeout: 2 }));
    expect(result).toMatchObject({ timed_out: true });
    await expect.poll(processesInside, { timeout: 10_000 }).toBeLessThan(5);
    await answers();
  });

  it("a fork bomb of an ordinary user likewise", async () => {
    expect(await whileProbing(bomb(["fork"], { timeout: 2, user: "mallory" }))).toMatchObject({
      timed_out: true,
    });
    await expect.poll(processesInside, { timeout: 10_000 }).toBeLessThan(5);
    await answers();
  });

  it("a sandbox full of fork bombs is gone at once when it is removed", async () => {
    const session = await lab.engine.execStream(victim, { cmd: [`${ATTACKS}/bomb`, "fork"] });
    await firstLine(session);
    await expect.poll(processesInside, { timeout: 10_000 }).toBeGreaterThan(limits.pid_limit / 2);
    await whileProbing(lab.engine.remove(victim));
    await session[Symbol.asyncDispose]();
  });

  it("a thread bomb is held by the limit", async () => {
    const text = outputOf(await whileProbing(bomb(["threads"])));
    const threads = Number(/threads (\d+)/.exec(text)?.[1]);
    expect(threads).toBeGreaterThan(10);
    expect(threads).toBeLessThan(limits.pid_limit);
    await answers();
  });

  it("more threads than that start without the guard", async () => {
    // Each ends with its process; the host's own limit is far above.
    const threads = Number(
      /threads (\d+)/.exec(outputOf(await lab.attack(neighbour, "bomb", ["threads"])))?.[1],
    );
    expect(threads).toBeGreaterThan(limits.pid_limit);
  });

  it("at the limit, a command is refused with a code or waits its turn; it is never half started", async () => {
    await using session = await lab.engine.execStream(victim, {
      cmd: [`${ATTACKS}/bomb`, "threads", "hold"],
    });
    await firstLine(session);
    const outcomes = await Promise.all(
      Array.from({ length: 8 }, () =>
        lab.attack(victim, "fds", [], { timeout: 5 }).then(
          ({ exit_code }) => exit_code,
          (error: unknown) => error,
        ),
      ),
    );
    for (const outcome of outcomes) {
      if (typeof outcome === "number") continue;
      expect(outcome).toBeInstanceOf(WarrenError);
      expect((outcome as WarrenError).code).not.toBe("internal");
    }
    await session.signal("SIGKILL");
    await session.exit;
    await answers();
  });
});

describe("memory", () => {
  it("a hog dies of it, and is told to have", async () => {
    const result = await whileProbing(bomb(["memory"]));
    expect(result).toMatchObject({ exit_code: 137, oom_killed: true });
    await answers();
  });

  it("ten hogs at once die, and nobody else", async () => {
    const results = await whileProbing(Promise.all(Array.from({ length: 10 }, () => bomb(["memory"]))));
    for (const result of results) expect(result.exit_code).toBe(137);
    expect(results.some(({ oom_killed }) => oom_killed === true)).toBe(true);
    await answers();
  });

  it("a hog as the main command ends its sandbox, and is told to have", async () => {
    const id = await lab.sandbox({ ...limits, cmd: [`${ATTACKS}/bomb`, "memory"] });
    const told = { status: "stopped", exit_code: 137, oom_killed: true };
    await whileProbing(expect.poll(() => lab.engine.get(id), { timeout: 20_000 }).toMatchObject(told));
    await lab.engine.remove(id);
  });

  it("a hog that offers PID 1 to the kernel first ends only its own sandbox", async () => {
    const offered = await lab.engine.exec(victim, { cmd: [`${ATTACKS}/sabotage`, "offer-init"], timeout: 5 });
    expect(offered.exit_code).toBe(0);
    const hogs = Promise.allSettled([bomb(["memory"]), bomb(["memory"])]);
    for (const hog of await whileProbing(hogs)) {
      if (hog.status === "rejected") expect(hog.reason).toBeInstanceOf(WarrenError);
    }
    const settled = async () => {
      const { status } = await lab.engine.get(victim);
      if (status !== "running") return "told";
      return lab.attack(victim, "fds").then(
        () => "alive",
        () => "lost",
      );
    };
    await expect.poll(settled, { timeout: 20_000 }).not.toBe("lost");
  });

  const places = { "/dev/shm": {}, "/tmp": { readonly_fs: true } };
  it.each(Object.entries(places))(
    "%s filled with bytes counts as the sandbox's memory",
    async (dir, request) => {
      const before = await memoryOfAll();
      const id = await lab.sandbox({ ...limits, ...request });
      const result = await whileProbing(
        lab.attack(id, "bomb", ["fill", dir]).catch((error: unknown) => error),
      );
      await expectBounded(id, result, before);
    },
  );

  it.each(Object.entries(places))(
    "%s filled with empty files counts as the sandbox's memory",
    async (dir, request) => {
      const before = await memoryOfAll();
      const id = await lab.sandbox({ ...limits, memory: 32 * MIB, ...request });
      const result = await whileProbing(
        lab.attack(id, "bomb", ["inodes", dir], { timeout: 15 }).catch((error: unknown) => error),
      );
      await expectBounded(id, result, before);
    },
  );

  /** Full: the filler was told ENOSPC or ENOMEM, or died of it; the sandbox lives or is told to be dead; the rest is freed. */
  async function expectBounded(id: string, result: unknown, before: number): Promise<void> {
    if (result instanceof WarrenError) {
      expect(["guest_failed", "sandbox_wrong_state"]).toContain(result.code);
    } else {
      const { exit_code, stdout } = result as { exit_code: number; stdout: string };
      if (exit_code === 0) expect(stdout).toMatch(/until E(28|12|122)\n/);
      else expect([137, 124]).toContain(exit_code);
    }
    const info = await lab.engine.get(id);
    if (info.status === "running") {
      const { memory_usage, memory_limit } = await lab.engine.stats(id);
      expect(memory_usage).toBeLessThanOrEqual(memory_limit + guestMemoryBytes(memory_limit));
      expect(await memoryOfAll()).toBeGreaterThan(before + SLACK_BYTES);
    }
    await whileProbing(lab.engine.remove(id));
    await expect.poll(memoryOfAll, { timeout: 10_000 }).toBeLessThan(before + SLACK_BYTES);
  }

  /** What all sandboxes of this engine have in memory, with what removed ones have left behind there. */
  async function memoryOfAll(): Promise<number> {
    const name = `warren-${lab.ownerId}`;
    const v1 = `/sys/fs/cgroup/memory/${name}/memory.usage_in_bytes`;
    return Number(await readFile(existsSync(v1) ? v1 : `/sys/fs/cgroup/${name}/memory.current`, "utf8"));
  }
});

describe("sabotage", () => {
  const run = (mode: string, timeout = 3) =>
    lab.engine.exec(victim, { cmd: [`${ATTACKS}/sabotage`, mode], timeout }).catch((error: unknown) => error);

  it("a command that kills all that it can ends itself and its siblings, not the sandbox", async () => {
    const sibling = lab.attack(victim, "bomb", ["none", "hold"]).catch((error: unknown) => error);
    const result = await whileProbing(run("kill-all"));
    for (const outcome of [result, await sibling]) {
      if (!(outcome instanceof WarrenError)) expect(outcome).toMatchObject({ exit_code: expect.any(Number) });
      else expect(outcome.code).toBe("guest_failed");
    }
    await answers();
  });

  it("a command that stops all that it can, its own supervisor included, does not outlive its timeout", async () => {
    const started = performance.now();
    const result = await whileProbing(run("stop-all"));
    expect(performance.now() - started).toBeLessThan(15_000);
    if (result instanceof WarrenError) expect(result.code).toBe("guest_failed");
    else expect(result).toMatchObject({ exit_code: expect.any(Number) });
    await expect.poll(processesInside, { timeout: 10_000 }).toBeLessThan(5);
    await answers();
  });

  it("a command that takes PID 1's limits away harms only its own sandbox", async () => {
    await run("starve-init");
    const outcomes = await Promise.all(Array.from({ length: 4 }, () => run("starve-init")));
    for (const outcome of outcomes) {
      if (outcome instanceof WarrenError) expect(outcome.code).not.toBe("internal");
    }
    await probeNeighbour();
  });

  it("stopped, dead, deaf and waiting processes are gone when the sandbox is removed", async () => {
    const session = await lab.engine.execStream(victim, { cmd: [`${ATTACKS}/sabotage`, "leave-behind"] });
    await firstLine(session);
    await expect.poll(processesInside, { timeout: 5_000 }).toBeGreaterThan(30);
    const started = performance.now();
    await whileProbing(lab.engine.remove(victim));
    expect(performance.now() - started).toBeLessThan(15_000);
    await session[Symbol.asyncDispose]();
  });

  it("they are gone after a polite stop, too", async () => {
    const session = await lab.engine.execStream(victim, { cmd: [`${ATTACKS}/sabotage`, "leave-behind"] });
    await firstLine(session);
    await whileProbing(lab.engine.stop(victim, { timeoutMs: 200 }));
    expect(await processesOf(lab.ownerId, victim)).toEqual([]);
    await session[Symbol.asyncDispose]();
    expect((await lab.engine.start(victim)).status).toBe("running");
    await answers();
  });
});
