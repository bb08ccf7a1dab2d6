import { beforeAll, describe, expect, it } from "vitest";
import { type Step, steps } from "../../src/contracts/steps.ts";
import { buildEngine } from "./support/engine-process.ts";
import { Lane } from "./support/lane.ts";
import { at, crashEverywhere, places, TIMEOUT_MS } from "./support/matrix.ts";
import { reboot } from "./support/reboot.ts";
import { scenarioNames } from "./support/scenarios.ts";

let program: string;
beforeAll(async () => {
  program = await buildEngine();
});

/** In this order, so that what is half done is still there when it is their turn; with steps of reconciling among them. */
const opening = at("opening");
const openingSteps: readonly Step[] = [
  ...opening.slice(0, opening.indexOf("open.reconciled")),
  "stored.running",
  "stored.paused",
  "oci.ended-guest",
  "stored.deleted",
  ...opening.slice(opening.indexOf("open.reconciled")),
];

it("names a place for each step", () => {
  expect(Object.keys(places).sort()).toEqual([...steps].sort());
});

describe("an engine that is killed", () => {
  it.each(at("first opening"))("at %s when it opens first", { timeout: TIMEOUT_MS }, async (step) => {
    await using lane = new Lane(program);
    await lane.crashOpening({ step, nth: 1 });
    await lane.recover();
    await lane.finish();
  });

  it("while it opens: the next one does what was left", { timeout: TIMEOUT_MS }, async () => {
    await using lane = new Lane(program);
    await dirty(lane);
    for (const step of openingSteps) await lane.crashOpening({ step, nth: 1 });
    await lane.recover();
    await lane.finish();
  });

  it("while it opens after a reboot", { timeout: TIMEOUT_MS }, async () => {
    await using lane = new Lane(program);
    await dirty(lane);
    await reboot(lane);
    for (const step of at("opening after a reboot")) await lane.crashOpening({ step, nth: 1 });
    await lane.recover();
    await lane.finish();
  });

  it("while a sandbox with open network starts, gets other rules and ends", {
    timeout: TIMEOUT_MS,
  }, async () => {
    await using lane = new Lane(program);
    // The first START is of the trial.
    const points: [Step, number][] = [
      ["launcher.start.sent", 1],
      ["launcher.start.sent", 2],
      ["launcher.start.answered", 2],
      ["stored.running", 2],
      ["oci.rewrote-spec", 1],
      ["oci.rewrote-spec", 2],
      ["oci.froze", 1],
      ["oci.asked-to-end", 1],
      ["oci.ended-guest", 2],
    ];
    for (const [step, nth] of points)
      expect(await lane.crash("network", { step, nth }), `${step} ${nth}`).toBe(true);
    await lane.finish();
  });

  it("while images are fetched, starts fail, and it closes", { timeout: TIMEOUT_MS }, async () => {
    await using lane = new Lane(program);
    for (const name of scenarioNames.filter((name) => name !== "life")) await crashEverywhere(lane, name);
    await lane.finish();
  });
});

/** One sandbox of each kind, and one half made, of an engine that was killed. */
async function dirty(lane: Lane): Promise<void> {
  const engine = await lane.recover();
  const actions = lane.world.actions(engine.api);
  await actions.create("main", { cmd: ["sh", "-c", "echo line 0 x; exec sleep 600"] });
  await actions.write("main", "/data/file", "kept");
  await actions.create("idle");
  await actions.stop("idle");
  await actions.create("frozen");
  await actions.pause("frozen");
  await engine.arm({ step: "oci.started", nth: 1 });
  await expect(actions.create("half")).rejects.toMatchObject({ code: "engine_unavailable" });
  await engine.ended;
}
