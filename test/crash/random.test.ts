import { setTimeout as delay } from "node:timers/promises";
import { expect, it } from "vitest";
import { buildEngine } from "./support/engine-process.ts";
import { Lane } from "./support/lane.ts";
import { keepBusy } from "./support/load.ts";
import { randomFrom } from "./support/random.ts";

/** scripts/crash.sh sets both. */
const count = Number(process.env.WARREN_CRASHES ?? 8);
const seed = Number(process.env.WARREN_SEED ?? Date.now() % 2 ** 31);

/** Sandboxes that are busy at one time. */
const BUSY = 5;
/** The latest instant, counted from the start of the load or of an engine. */
const LATEST_MS = 800;

it(`an engine under load that is killed at ${count} instants (seed ${seed}) loses nothing and leaves nothing`, {
  timeout: 60_000 + count * 20_000,
}, async () => {
  const program = await buildEngine();
  const random = randomFrom(seed);
  await using lane = new Lane(program);
  for (let crash = 0; crash < count; ) {
    const engine = await lane.recover();
    const busy = Array.from({ length: BUSY }, (_, i) =>
      keepBusy(lane.world, lane.world.actions(engine.api), `box${i}`, randomFrom(random.below(2 ** 31))),
    );
    await Promise.race([delay(random.below(LATEST_MS)), Promise.all(busy)]);
    await lane.kill(engine);
    await Promise.all(busy);
    crash++;
    // One in three dies again while it recovers.
    if (random.below(3) === 0 && crash < count) {
      const next = lane.start();
      await delay(random.below(LATEST_MS));
      await lane.kill(next);
      crash++;
    }
  }
  await lane.finish();
  expect(lane.world.names()).toEqual([]);
});
