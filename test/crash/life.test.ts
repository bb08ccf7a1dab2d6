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
