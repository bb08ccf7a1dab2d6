import { setTimeout as delay } from "node:timers/promises";
import { expect, it } from "vitest";
import { buildEngine, type EngineProcess, membersOf } from "./support/engine-process.ts";
import { commandOf, parentOf } from "./support/host.ts";
import { checkInvariant } from "./support/invariant.ts";
import { Lane } from "./support/lane.ts";

/** Milliseconds after a create was asked for: before, in and after its START. */
const instants = [0, 2, 4, 6, 8, 10, 13, 16, 20, 30];

function launcherOf(engine: EngineProcess, group: string): number | undefined {
  return membersOf(group).find(
    (pid) => parentOf(pid) === engine.pid && commandOf(pid).includes("warren-launcher serve"),
  );
}

it("a launcher that is killed while it starts sandboxes leaves what is told, and nothing else", {
  timeout: 120_000,
}, async () => {
  await using lane = new Lane(await buildEngine());
  const engine = await lane.recover();
  const actions = lane.world.actions(engine.api);
  await actions.create("bystander");
  for (const ms of instants) {
    const made = actions.create(`at${ms}`).then(
      () => "made",
      (error: { code: string }) => error.code,
    );
    await delay(ms);
    const launcher = launcherOf(engine, lane.group);
    if (launcher !== undefined) process.kill(launcher, "SIGKILL");
    expect(await made).toMatch(/^(made|runtime_failed)$/);
  }
  await checkInvariant(lane.world, engine, lane);
  await actions.create("after");
  await lane.finish();
});

it("a START that goes on without launcher and engine is found by the next engine", {
  timeout: 60_000,
}, async () => {
  await using lane = new Lane(await buildEngine());
  const engine = await lane.recover();
  const actions = lane.world.actions(engine.api);
  await actions.create("box");
  await actions.stop("box");
  await engine.arm({ step: "launcher.start.sent", nth: 1 });
  await expect(actions.start("box")).rejects.toMatchObject({ code: "engine_unavailable" });
  await engine.ended;
  await lane.recover();
  await lane.finish();
});
