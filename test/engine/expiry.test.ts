import { expect, it } from "vitest";
import { stateDir, testEngine } from "./support/engine.ts";
import { manualClock } from "./support/manual-clock.ts";

const HOUR = 3_600_000;

async function opened(dir: string, clock = manualClock()) {
  const { engine, runtime, ...rest } = await testEngine(dir, { clock, config: { defaultTimeoutS: 60 } });
  const gone = async (id: string) =>
    await expect
      .poll(() => engine.get(id).catch((error: { code: string }) => error.code))
      .toBe("sandbox_not_found");
  const ids = async () => (await engine.list()).map((info) => info.id);
  return { engine, runtime, clock, gone, ids, ...rest };
}

it("removes sandboxes when their time has come, stopped ones too, and no others", async () => {
  const dir = stateDir();
  await using test = await opened(dir.path);
  const { engine, clock, gone, ids } = test;
  const byDefault = await engine.create({});
  const short = await engine.create({ timeout: 10 });
  const long = await engine.create({ timeout: 3600 });
  const never = await engine.create({ timeout: -1 });
  await engine.stop(short.id, { timeoutMs: 0 });
  clock.advance(9_999);
  expect(await ids()).toHaveLength(4);
  clock.advance(1);
  await gone(short.id);
  expect(await ids()).toEqual([byDefault.id, long.id, never.id]);
  clock.advance(50_000);
  await gone(byDefault.id);
  clock.advance(HOUR);
  await gone(long.id);
  clock.advance(10 * 365 * 24 * HOUR);
  expect(await ids()).toEqual([never.id]);
  expect((await test.runtime.list()).map((sandbox) => sandbox.id)).toEqual([never.id]);
});

it("follows an extension, also one that comes at the last moment", async () => {
  const dir = stateDir();
  await using test = await opened(dir.path);
  const { engine, clock, gone, ids } = test;
  const { id } = await engine.create({ timeout: 10 });
  await engine.extend(id, 100);
  clock.advance(99_999);
  expect(await ids()).toEqual([id]);
  // The removal waits for its turn behind the stop; until then the extension can still come.
  const stopping = engine.stop(id, { timeoutMs: 1000 });
  clock.advance(1);
  await engine.extend(id, 10);
  await stopping;
  expect(await ids()).toEqual([id]);
  clock.advance(10_000);
  // The first try, which found it extended, is repeated within half a minute.
  clock.advance(30_000);
  await gone(id);
});

it("never expires what was extended for ever, and at once what has no time left", async () => {
  const dir = stateDir();
  await using test = await opened(dir.path);
  const { engine, clock, gone, ids } = test;
  const [kept, dropped] = [await engine.create({ timeout: 5 }), await engine.create({})];
  await engine.extend(kept.id, -1);
  await engine.extend(dropped.id, 0);
  clock.advance(0);
  await gone(dropped.id);
  clock.advance(HOUR);
  expect(await ids()).toEqual([kept.id]);
});

it("copes with a wall clock that is set back or forward", async () => {
  const dir = stateDir();
  await using test = await opened(dir.path);
  const { engine, clock, gone, ids } = test;
  const { id } = await engine.create({ timeout: 60 });
  clock.step(-HOUR);
  clock.advance(60_000);
  expect(await ids()).toEqual([id]);
  clock.step(HOUR);
  clock.advance(30_000);
  await gone(id);
});

it("tries a removal that failed again in half a minute, though the wall clock is set back meanwhile", async () => {
  const dir = stateDir();
  const clock = manualClock();
  let isBroken = true;
  let tries = 0;
  await using test = await testEngine(dir.path, {
    clock,
    change: (runtime) => ({
      ...runtime,
      async remove(id) {
        tries++;
        if (isBroken) throw new Error("not now");
        await runtime.remove(id);
      },
    }),
  });
  const { id } = await test.engine.create({ timeout: 10 });
  clock.advance(10_000);
  await expect.poll(async () => (await test.engine.get(id)).status).toBe("error");
  clock.step(2 * HOUR);
  clock.advance(30_000);
  await expect.poll(() => tries).toBe(2);
  clock.step(-HOUR);
  isBroken = false;
  clock.advance(30_000);
  await expect.poll(() => test.engine.list()).toEqual([]);
  expect(tries).toBe(3);
});

it("removes after a restart what expired meanwhile", async () => {
  const dir = stateDir();
  const first = await opened(dir.path);
  const { id } = await first.engine.create({ timeout: 60 });
  await first.engine.close();
  await using second = await opened(dir.path, manualClock(first.clock.now() + HOUR));
  expect((await second.engine.get(id)).id).toBe(id);
  second.clock.advance(0);
  await second.gone(id);
});
