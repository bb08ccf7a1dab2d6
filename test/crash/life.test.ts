import { beforeAll, expect, it } from "vitest";
import { buildEngine } from "./support/engine-process.ts";
import { Lane } from "./support/lane.ts";
import { crashEverywhere, TIMEOUT_MS } from "./support/matrix.ts";

let program: string;
beforeAll(async () => {
  program = await buildEngine();
});

it("an engine that is killed at any step of a sandbox's life leaves true records and nothing else", {
  timeout: TIMEOUT_MS,
}, async () => {
  await using lane = new Lane(program);
  await crashEverywhere(lane, "life");
  await lane.finish();
});

it("with runc likewise", { timeout: TIMEOUT_MS }, async () => {
  await using lane = new Lane(program, "runc");
  const steps = ["launcher.start.sent", "oci.froze", "oci.ended-guest", "oci.deleted-container"] as const;
  for (const step of steps) expect(await lane.crash("life", { step, nth: 1 }), step).toBe(true);
  await lane.finish();
});

it("a start that was cut short is not taken for the one before it", { timeout: TIMEOUT_MS }, async () => {
  await using lane = new Lane(program);
  const first = await lane.recover();
  const actions = lane.world.actions(first.api);
  const before = await actions.create("box", { cmd: ["sh", "-c", "echo line 0 x; exec sleep 600"] });
  for await (const _ of first.api.logs("box", { until: "line 0" }));
  await actions.stop("box");
  await first.arm({ step: "oci.started", nth: 1 });
  await expect(actions.start("box")).rejects.toMatchObject({ code: "engine_unavailable" });
  await first.ended;
  const { api } = await lane.recover();
  const after = await api.get("box");
  expect(after.status).toBe("running");
  expect(Date.parse(after.started_at ?? "")).toBeGreaterThan(Date.parse(before.started_at ?? ""));
  const lines = async () => {
    let text = "";
    for await (const { data } of api.logs("box")) text += Buffer.from(data).toString();
    return text;
  };
  await expect.poll(lines, { timeout: 10_000 }).toBe("line 0 x\nline 0 x\n");
  await lane.finish();
});
