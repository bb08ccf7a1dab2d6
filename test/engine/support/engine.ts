import type { Runtime } from "../../../src/contracts/runtime.ts";
import { type Engine, type EngineOptions, openEngine } from "../../../src/engine/engine.ts";
import { silentLogger } from "../../../src/lib/log.ts";
import { openFakeRuntime } from "../../../src/runtimes/fake/runtime.ts";

export const OWNER_ID = "testtest";

export function fakeRuntime(stateDir: string): Promise<Runtime> {
  return openFakeRuntime({ stateDir, ownerId: OWNER_ID, log: silentLogger });
}

/**
 * An engine on the fake runtime, or on `change` of it. Disposing closes it and removes its sandboxes; a test that closes it
 * on its own leaves them for the next one.
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
    async [Symbol.asyncDispose]() {
      await engine.close();
      const bare = await fakeRuntime(stateDir);
      await Promise.all((await bare.list()).map((sandbox) => bare.remove(sandbox.id)));
    },
  };
}
