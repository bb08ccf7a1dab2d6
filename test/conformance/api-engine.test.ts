import { openEngine } from "../../src/engine/engine.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { openFakeRuntime } from "../../src/runtimes/fake/runtime.ts";
import { testApi } from "../../src/testing/index.ts";
import { removeStateDir } from "../engine/support/engine.ts";
import { tempDir } from "../engine/support/temp-dir.ts";

testApi(
  "engine on fake",
  async () => {
    const dir = tempDir();
    const runtime = await openFakeRuntime({ stateDir: dir.path, ownerId: "testtest", log: silentLogger });
    const engine = await openEngine({
      stateDir: dir.path,
      runtimes: { fake: runtime },
      defaultRuntime: "fake",
      log: silentLogger,
    });
    return {
      api: engine,
      close: async () => {
        await engine.close();
        await removeStateDir(dir.path);
      },
    };
  },
  { lacks: ["pause", "limits"] },
);
