import { join } from "node:path";
import { openEngine } from "../../src/engine/engine.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { openFakeRuntime } from "../../src/runtimes/fake/runtime.ts";
import { testApi } from "../../src/testing/index.ts";
import { removeStateDir } from "../engine/support/engine.ts";
import { withImages } from "../engine/support/image-store.ts";
import { tempDir } from "../engine/support/temp-dir.ts";
import { imageTests } from "./support/image-tests.ts";

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
  { lacks: ["pause", "limits", "images"] },
);

// A store of the test's own on the fake, for what engine and server do about images.
testApi(
  "engine on fake with images",
  async () => {
    const dir = tempDir();
    const fake = await openFakeRuntime({ stateDir: dir.path, ownerId: "testtest", log: silentLogger });
    const { runtime } = withImages(fake, join(dir.path, "images"));
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
  { lacks: ["pause", "limits"], pullable: "registry.test/tiny:1", only: imageTests },
);
