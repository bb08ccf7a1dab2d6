import { execFileSync } from "node:child_process";
import { closeSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { buildEngine } from "./support/engine-process.ts";
import { checkInvariant } from "./support/invariant.ts";
import { Lane } from "./support/lane.ts";

const DISK_BYTES = 96 * 1024 ** 2;

/** A filesystem of its own for the state directory of a lane. */
function smallDisk(lane: Lane): { fill(): void; free(): void } {
  const image = join(lane.dir, "disk.img");
  writeFileSync(image, "");
  truncateSync(image, DISK_BYTES);
  execFileSync("mkfs.ext4", ["-q", image]);
  execFileSync("mount", ["-o", "loop", image, lane.stateDir]);
  lane.atEnd.push(() => execFileSync("umount", [lane.stateDir]));
  rmSync(join(lane.stateDir, "lost+found"), { recursive: true });
  // Beside the engine's log, as an older one of it.
  const path = join(lane.stateDir, "engine.log.1");
  return {
    fill() {
      const file = openSync(path, "w");
      try {
        for (const size of [1 << 20, 4096]) writeUntilFull(file, Buffer.alloc(size, 1));
      } finally {
        closeSync(file);
      }
    },
    free: () => rmSync(path),
  };
}

function writeUntilFull(file: number, bytes: Buffer): void {
  try {
    for (;;) writeSync(file, bytes);
  } catch (error) {
    expect(error).toMatchObject({ code: "ENOSPC" });
  }
}

it("a full disk refuses what is new, and holds nothing else up", { timeout: 120_000 }, async () => {
  await using lane = new Lane(await buildEngine());
  const disk = smallDisk(lane);
  const logFd = openSync(join(lane.stateDir, "engine.log"), "a");
  const engine = lane.start(undefined, logFd);
  closeSync(logFd);
  await engine.ready;
  const { api } = engine;
  const actions = lane.world.actions(api);
  const talk = ["sh", "-c", 'i=0; while :; do echo "line $i x"; i=$((i+1)); sleep 0.01; done'];
  await actions.create("talking", { cmd: talk });
  await actions.create("idle");
  await actions.write("idle", "/data/file", "kept");
  await actions.create("ended");
  await actions.stop("ended");

  disk.fill();
  await expect(api.create({ name: "more" })).rejects.toMatchObject({ code: "no_space" });
  await expect(api.files.write("idle", "/data/file", Buffer.alloc(100_000))).rejects.toMatchObject({
    code: "no_space",
  });
  await expect(api.start("ended")).rejects.toMatchObject({ code: "no_space" });
  lane.world.boxes.set("ended", [{ ...(await boxOf("ended")), status: "error" }]);
  // What is there goes on, through more changes than the reserve holds at one time.
  for (let round = 0; round < 100; round++) await api.extend("idle", 1000 + round);
  expect((await api.exec("talking", { cmd: ["echo", "hi"] })).stdout).toBe("hi\n");
  await actions.pause("idle");
  await actions.resume("idle");
  await actions.remove("ended");
  await actions.stop("talking");
  await checkInvariant(lane.world, engine, lane, { logsHaveGaps: true });

  disk.free();
  await actions.start("talking");
  await actions.create("more");
  await checkInvariant(lane.world, engine, lane, { logsHaveGaps: true });
  await actions.remove("talking");
  await lane.kill(engine);
  await lane.recover();
  await lane.finish();

  async function boxOf(name: string) {
    const [box] = lane.world.boxes.get(name) ?? [];
    if (!box) throw new Error(`there is no ${name}`);
    return box;
  }
});
