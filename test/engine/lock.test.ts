import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { promisify } from "node:util";
import { expect, it } from "vitest";
import { lockStateDir } from "../../src/engine/lock.ts";
import { argvOf } from "./support/program.ts";
import { tempDir } from "./support/temp-dir.ts";

const locked = expect.objectContaining({ code: "engine_locked", hint: expect.any(String) });
const holder = argvOf("hold-lock.mjs");

it("refuses a second holder at once, and lets one in after the first", () => {
  using dir = tempDir();
  const first = lockStateDir(dir.path);
  // A busy machine may hold up some tries, not all of them.
  let fastestMs = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 10 && fastestMs >= 1000; i++) {
    const before = performance.now();
    expect(() => lockStateDir(dir.path)).toThrow(locked);
    fastestMs = Math.min(fastestMs, performance.now() - before);
  }
  expect(fastestMs).toBeLessThan(1000);
  first[Symbol.dispose]();
  lockStateDir(dir.path)[Symbol.dispose]();
});

it("keeps other processes out, and dies with its process", async () => {
  using dir = tempDir();
  const child = spawn(process.execPath, [...holder, dir.path], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  expect(() => lockStateDir(dir.path)).toThrow(locked);
  child.kill("SIGKILL");
  await once(child, "exit");
  using _mine = lockStateDir(dir.path);
  const other = promisify(execFile)(process.execPath, [...holder, dir.path]);
  await expect(other).rejects.toThrow(/engine_locked/);
});
