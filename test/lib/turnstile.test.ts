import { expect, it } from "vitest";
import { createDeferred } from "../../src/lib/deferred.ts";
import { createTurnstile } from "../../src/lib/turnstile.ts";

it("lets those who wait give up, and nobody else go before his turn", async () => {
  const turnstile = createTurnstile(1);
  const first = createDeferred<void>();
  const holding = turnstile.run(() => first.promise);
  const stop = new AbortController();
  const given = turnstile.run(async () => "never", stop.signal);
  const kept = turnstile.run(async () => "kept", new AbortController().signal);
  stop.abort();
  await expect(given).rejects.toMatchObject({ code: "cancelled" });
  await expect(turnstile.run(async () => "never", stop.signal)).rejects.toMatchObject({ code: "cancelled" });
  first.resolve();
  await holding;
  expect(await kept).toBe("kept");
  expect(await turnstile.run(async () => "again")).toBe("again");
});

it("lets two in at a time, in order, and goes on after a failure", async () => {
  const turnstile = createTurnstile(2);
  const started: number[] = [];
  const finish: ((error?: Error) => void)[] = [];
  const tasks = [0, 1, 2, 3].map((i) =>
    turnstile.run(
      () =>
        new Promise<number>((resolve, reject) => {
          started.push(i);
          finish[i] = (error) => (error ? reject(error) : resolve(i));
        }),
    ),
  );
  expect(started).toEqual([0, 1]);
  finish[1]?.(new Error("it failed"));
  await expect(tasks[1]).rejects.toThrow("it failed");
  expect(started).toEqual([0, 1, 2]);
  finish[0]?.();
  expect(await tasks[0]).toBe(0);
  expect(started).toEqual([0, 1, 2, 3]);
  finish[2]?.();
  finish[3]?.();
  expect(await Promise.all([tasks[2], tasks[3]])).toEqual([2, 3]);
  const last = turnstile.run(async () => "again");
  expect(await last).toBe("again");
});
