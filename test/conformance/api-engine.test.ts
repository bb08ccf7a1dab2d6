import { join } from "node:path";
import type { Runtime } from "../../src/contracts/runtime.ts";
import { openEngine } from "../../src/engine/engine.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { openFakeRuntime } from "../../src/runtimes/fake/runtime.ts";
import { testApi } from "../../src/testing/index.ts";
import { removeStateDir } from "../engine/support/engine.ts";
import { withImages } from "../engine/support/image-store.ts";
import { tempDir } from "../engine/support/temp-dir.ts";
import { imageTests } from "./support/image-tests.ts";

/** An engine on the fake, or on what `dress` makes of it. */
async function openOnFake(dress: (fake: Runtime, dir: string) => Runtime = (fake) => fake) {
  const dir = tempDir();
  const fake = await openFakeRuntime({ stateDir: dir.path, ownerId: "testtest", log: silentLogger });
  const engine = await openEngine({
    stateDir: dir.path,
    runtimes: { fake: dress(fake, dir.path) },
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
}

testApi("engine on fake", () => openOnFake(), { lacks: ["pause", "limits", "images"] });

// A store of the test's own on the fake, for what engine and server do about images.
testApi(
  "engine on fake with images",
  () => openOnFake((fake, dir) => withImages(fake, join(dir, "images")).runtime),
  { lacks: ["pause", "limits"], pullable: "registry.test/tiny:1", only: imageTests },
);
