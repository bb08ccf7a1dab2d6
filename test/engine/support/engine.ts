import { rmSync } from "node:fs";
import { onTestFinished } from "vitest";
import type { Runtime } from "../../../src/contracts/runtime.ts";
import { type Engine, type EngineOptions, openEngine } from "../../../src/engine/engine.ts";
import { silentLogger } from "../../../src/lib/log.ts";
import { openFakeRuntime } from "../../../src/runtimes/fake/runtime.ts";
import { tempDir } from "./temp-dir.ts";

export const OWNER_ID = "testtest";

export function fakeRuntime(stateDir: string): Promise<Runtime> {
  return openFakeRuntime({ stateDir, ownerId: OWNER_ID, log: silentLogger });
}

/** Removes a state directory, and whatever a failed test left running in it. */
export async function removeStateDir(path: string): Promise<void> {
  const runtime = await fakeRuntime(path);
  await Promise.all((await runtime.list()).map((sandbox) => runtime.remove(sandbox.id)));
  rmSync(path, { recursive: true, force: true });
}

/** A state directory of one test. */
export function stateDir(): { path: string } {
  const { path } = tempDir();
  onTestFinished(() => removeStateDir(path));
  return { path };
}

/**
 * An engine on the fake runtime, or on `change` of it. Closing it leaves its sandboxes for the next one.
 */
export async function testEngine(
  stateDir: string,
  {
    change = (runtime: Runtime) => runtime,
    ...options
  }: Partial<EngineOptions> & {
    change?: (runtime: Runtime) => Runtime;
  } = {},
): Promise<{ engine: Engine; runtime: Runtime } & AsyncDisposable> {
  const runtime = change(await fakeRuntime(stateDir));
  const engine = await openEngine({
    stateDir,
    runtimes: { fake: runtime },
    defaultRuntime: "fake",
    log: silentLogger,
    ...options,
  });
  return {
    engine,
    runtime,
    [Symbol.asyncDispose]: () => engine.close(),
  };
}
