import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Runtime } from "../../src/contracts/runtime.ts";
import { openEngine } from "../../src/engine/engine.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { openPodmanRuntime } from "../../src/runtimes/podman/runtime.ts";
import { testApi } from "../../src/testing/index.ts";
import { IMAGE, openDockerRig } from "../runtimes/docker/support/open.ts";
import { makeStorage, testImage } from "../runtimes/podman/support/storage.ts";
import { shortForm } from "./support/short-form.ts";

async function engineOn(stateDir: string, runtime: Runtime) {
  const { name } = runtime;
  return await openEngine({
    stateDir,
    runtimes: { [name]: runtime },
    defaultRuntime: name,
    log: silentLogger,
  });
}

testApi(
  "engine on podman",
  async () => {
    const storage = makeStorage();
    const stateDir = mkdtempSync(join(tmpdir(), "wpod-"));
    const engine = await engineOn(
      stateDir,
      await openPodmanRuntime({ stateDir, ownerId: "t1", log: silentLogger }),
    );
    return {
      api: engine,
      close: async () => {
        await engine.close();
        rmSync(stateDir, { recursive: true, force: true });
        storage.remove();
      },
    };
  },
  { defaults: { image: testImage }, ...shortForm },
);

testApi(
  "engine on docker",
  async () => {
    const rig = await openDockerRig();
    const engine = await engineOn(rig.stateDir, rig.runtime);
    return {
      api: engine,
      close: async () => {
        await engine.close();
        await rig.reopen();
        await rig.close();
      },
    };
  },
  { defaults: { image: IMAGE }, ...shortForm },
);
