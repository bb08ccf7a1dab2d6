import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "../../src/lib/log.ts";
import { openPodmanRuntime } from "../../src/runtimes/podman/runtime.ts";
import { testRuntime } from "../../src/testing/index.ts";
import { makeStorage, testImage } from "../runtimes/podman/support/storage.ts";

testRuntime(
  "podman",
  async () => {
    const storage = makeStorage();
    const stateDir = mkdtempSync(join(tmpdir(), "wpod-"));
    const runtime = await openPodmanRuntime({ stateDir, ownerId: "t1", log: silentLogger });
    return {
      runtime,
      close: async () => {
        await runtime.close();
        rmSync(stateDir, { recursive: true, force: true });
        storage.remove();
      },
    };
  },
  {
    image: testImage,
    lacks: ["directory"],
  },
);
