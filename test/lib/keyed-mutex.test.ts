import { expect, it } from "vitest";
import { createKeyedMutex } from "../../src/lib/keyed-mutex.ts";

function gate() {
  let open = () => {};
  const passed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { open, passed };
}

it("runs tasks of one key in order of arrival, one at a time", async () => {
  const mutex = createKeyedMutex();
  const log: string[] = [];
  const first = gate();
  const a = mutex.run("k", async () => {
    log.push("a begins");
    await first.passed;
    log.push("a ends");
  });
  const b = mutex.run("k", async () => {
    log.push("b");
  });
  await mutex.run("other", async () => {
    log.push("other");
  });
  expect(log).toEqual(["a begins", "other"]);
  first.open();
  await Promise.all([a, b]);
  expect(log).toEqual(["a begins", "other", "a ends", "b"]);
});

it("goes on after a failed task, and tells only its own caller", async () => {
  const mutex = createKeyedMutex();
  const failed = mutex.run("k", async () => {
    throw new Error("no");
  });
  const next = mutex.run("k", async () => "yes");
  await expect(failed).rejects.toThrow("no");
  await expect(next).resolves.toBe("yes");
});

it("is idle only when tasks that came meanwhile are done too", async () => {
  const mutex = createKeyedMutex();
  const log: string[] = [];
  void mutex.run("a", async () => {
    void mutex.run("b", async () => {
      await Promise.resolve();
      log.push("b");
    });
    log.push("a");
  });
  await mutex.idle();
  expect(log).toEqual(["a", "b"]);
});
