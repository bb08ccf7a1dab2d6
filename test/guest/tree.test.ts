import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  childrenOf,
  collect,
  marked,
  newMark,
  processStatus,
  run,
  script,
  startGuest,
  type TestGuest,
  until,
} from "./harness.ts";

/** The guest answers within this many milliseconds of a deadline. */
const PROMISED_MS = 200;

let guest: TestGuest;
beforeAll(async () => {
  guest = await startGuest();
});
afterAll(() => guest[Symbol.asyncDispose]());

function markedScript(text: string) {
  const mark = newMark();
  const request = script(text);
  return { mark, request: { ...request, env: { ...request.env, MARK: mark } } };
}

/**
 * Nothing of the tree is left. At once, but on a machine without time to spare: then the guest keeps its promise to answer,
 * and goes on killing.
 */
const gone = (mark: string) => until(async () => (await marked(mark)).length === 0);

/** Runs a bomb, which may not be able to fork any more itself, beside a command that lasts. */
const fuse = 'sh -c "$1" "$1" & exec sleep 1000';

/** Other work on this machine may hold up some tries, not all of them. Each has more time than the one before. */
async function withinPromise(attempt: (timeoutMs: number) => Promise<number>): Promise<void> {
  const lateMs: number[] = [];
  for (let i = 0; i < 20 && !lateMs.some((ms) => ms <= PROMISED_MS); i++)
    lateMs.push(await attempt(400 + 200 * i));
  expect(Math.min(...lateMs)).toBeLessThanOrEqual(PROMISED_MS);
}

describe("a timeout", () => {
  it("kills the tree, double-forked and setsid'd children included, and brings the output so far", async () => {
    await withinPromise(async (timeoutMs) => {
      const { mark, request } = markedScript(
        'echo so far; (setsid sh -c "sleep 1000 & sleep 1000" &) ; trap "" TERM; sleep 1000',
      );
      const session = await guest.client.spawn({ ...request, timeoutMs });
      const start = performance.now();
      let isOver = false;
      void session.exit.finally(() => {
        isOver = true;
      });
      const isWhole = await until(async () => (await marked(mark)).length >= 4 || (isOver && "never"));
      const result = await collect(session);
      const lateMs = performance.now() - start - timeoutMs;
      expect(result).toMatchObject({ exit_code: 124, timed_out: true });
      await gone(mark);
      if (isWhole === "never") return Number.POSITIVE_INFINITY;
      expect(result.stdout).toBe("so far\n");
      return lateMs;
    });
    await until(async () => (await childrenOf(guest.pid)).length === 0);
  }, 120_000);

  it("ends a fork bomb", async () => {
    // Its user may have 150 processes, so that the machine stays usable.
    const mark = newMark();
    const bomb = "bomb() { bomb | bomb & }; while :; do bomb; done 2>/dev/null";
    const session = await guest.client.spawn({
      argv: ["prlimit", "--nproc=150", "sh", "-c", fuse, "sh", bomb],
      env: { MARK: mark, PATH: "/usr/bin:/bin" },
      user: "54321:54321",
      timeoutMs: 500,
    });
    const result = await collect(session);
    expect(result).toMatchObject({ exit_code: 124, timed_out: true });
    await gone(mark);
  });

  it("ends a bomb that gives each process a session of its own", async () => {
    const mark = newMark();
    const bomb = 'while :; do setsid sh -c "$0" "$0" & setsid sh -c "$0" "$0" & wait; done 2>/dev/null';
    const session = await guest.client.spawn({
      argv: ["prlimit", "--nproc=100", "sh", "-c", fuse, "sh", bomb],
      env: { MARK: mark, PATH: "/usr/bin:/bin" },
      user: "54322:54322",
      timeoutMs: 500,
    });
    expect(await collect(session)).toMatchObject({ exit_code: 124, timed_out: true });
    await gone(mark);
  });

  it("is not felt by a command that ends before", async () => {
    const result = await run(guest, { ...script("exit 7"), timeoutMs: 60_000 });
    expect(result.exit_code).toBe(7);
    expect(result).not.toHaveProperty("timed_out");
  });

  it("comes although nobody reads the output", async () => {
    const { mark, request } = markedScript("yes");
    const session = await guest.client.spawn({ ...request, timeoutMs: 300 });
    await gone(mark);
    expect(await collect(session)).toMatchObject({ exit_code: 124 });
  });

  it("reaches stopped processes", async () => {
    const { mark, request } = markedScript("sleep 1000 & kill -STOP $!; kill -STOP $$");
    expect(await run(guest, { ...request, timeoutMs: 300 })).toMatchObject({ exit_code: 124 });
    await gone(mark);
  });
});

describe("a kill", () => {
  it("ends the tree", async () => {
    const { mark, request } = markedScript("trap '' TERM INT HUP; setsid sleep 1000 & sleep 1000 & wait");
    const session = await guest.client.spawn(request);
    await until(async () => (await marked(mark)).length >= 3);
    await session.kill();
    await gone(mark);
    expect(await session.exit).toMatchObject({ exit_code: 137, signal: "SIGKILL" });
    await session.kill();
  });

  it("comes with disposing", async () => {
    const { mark, request } = markedScript("yes & sleep 1000");
    {
      await using session = await guest.client.spawn(request);
      expect(session.pid).toBeGreaterThan(1);
      await until(async () => (await marked(mark)).length >= 3);
    }
    await gone(mark);
  });
});

describe("a lost connection", () => {
  it("kills the tree", async () => {
    const { mark, request } = markedScript("setsid sleep 1000 & sleep 1000");
    const stop = new AbortController();
    const session = await guest.client.spawn({ ...request, stdin: true }, { signal: stop.signal });
    // Bytes that nobody takes hide the end of the stream from whoever only reads on.
    const writing = session.write(Buffer.alloc(4 << 20)).catch(() => {});
    await until(async () => (await marked(mark)).length >= 3);
    stop.abort();
    await expect(session.exit).rejects.toMatchObject({ code: "cancelled" });
    await expect(collect(session)).rejects.toMatchObject({ code: "cancelled" });
    await writing;
    await gone(mark);
  });

  it("leaves a detached command alone", async () => {
    const { mark, request } = markedScript("echo started; sleep 1000");
    const stop = new AbortController();
    const session = await guest.client.spawn({ ...request, detached: true }, { signal: stop.signal });
    stop.abort();
    await expect(session.exit).rejects.toMatchObject({ code: "cancelled" });
    // Handled after the hang-up, so this has been decided by then.
    await run(guest, script("true"));
    await expect.poll(() => marked(mark)).not.toEqual([]);
    expect((await processStatus(session.pid)).ppid).not.toBe(guest.pid);
    process.kill(session.pid, "SIGTERM");
    await until(async () => (await marked(mark)).length <= 1);
    for (const pid of await marked(mark)) process.kill(pid, "SIGKILL");
    await until(async () => (await childrenOf(guest.pid)).length === 0);
  });

  it("before the start is a cancelled start", async () => {
    await expect(guest.client.spawn(script("true"), { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: "cancelled",
    });
  });
});

describe("a payload that turns on its supervisor", () => {
  it("by killing it is killed with all its children", async () => {
    const { mark, request } = markedScript(
      "setsid sleep 1000 & sleep 1000 & read go; kill -KILL $PPID; sleep 1000",
    );
    const session = await guest.client.spawn({ ...request, stdin: true });
    await session.write(Buffer.from("go\n"));
    await expect(session.exit).rejects.toMatchObject({ code: "guest_failed" });
    await gone(mark);
    expect((await run(guest, script("echo well"))).stdout).toBe("well\n");
  });

  it("by stopping it does not outlive its deadline", async () => {
    const { mark, request } = markedScript("read go; kill -STOP $PPID; sleep 1000");
    const session = await guest.client.spawn({ ...request, stdin: true, timeoutMs: 300 });
    await session.write(Buffer.from("go\n"));
    await expect(session.exit).rejects.toMatchObject({ code: "guest_failed" });
    await gone(mark);
  });

  it("does no harm to other commands and their background children", async () => {
    const other = markedScript("sleep 1000 & exit 0");
    await run(guest, other.request);
    const running = markedScript("sleep 1000");
    const session = await guest.client.spawn(running.request);
    const { mark, request } = markedScript("read go; kill -KILL $PPID; sleep 1000");
    const bad = await guest.client.spawn({ ...request, stdin: true });
    await bad.write(Buffer.from("go\n"));
    await expect(bad.exit).rejects.toMatchObject({ code: "guest_failed" });
    await gone(mark);
    await expect.poll(() => marked(other.mark)).toHaveLength(1);
    await expect.poll(() => marked(running.mark)).toHaveLength(2);
    for (const pid of await marked(other.mark)) process.kill(pid, "SIGKILL");
    await session.kill();
  });

  it("with signals that can be ignored has no effect", async () => {
    const text = "for s in TERM INT HUP QUIT USR1 USR2 ALRM PIPE PWR; do kill -$s $PPID; done; echo alive";
    expect(await run(guest, script(text))).toMatchObject({ exit_code: 0, stdout: "alive\n" });
  });
});

it("orphans are reaped", async () => {
  await run(guest, script("for i in 1 2 3 4 5; do (sh -c 'sleep 0.05 &' &) ; done"));
  await until(async () => (await childrenOf(guest.pid)).length === 0);
});
