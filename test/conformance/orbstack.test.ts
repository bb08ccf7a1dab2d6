import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "../../src/lib/log.ts";
import { openPodmanRuntime } from "../../src/runtimes/podman/runtime.ts";
import { testRuntime } from "../../src/testing/index.ts";
import { elsewhere } from "../runtimes/podman/support/elsewhere.ts";
import { standInOrb } from "../runtimes/podman/support/orb.ts";
import { makeStorage, testImage } from "../runtimes/podman/support/storage.ts";
import { shortRuntime } from "./support/short-form.ts";

testRuntime(
  "podman in an OrbStack machine (a stand-in)",
  async () => {
    const storage = makeStorage();
    const env = Object.fromEntries(
      ["CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"].map((name) => [name, process.env[name] as string]),
    );
    const orb = standInOrb({ running: false, machines: [], env });
    const stateDir = mkdtempSync(join(tmpdir(), "worbs-"));
    const runtime = await openPodmanRuntime({
      stateDir,
      ownerId: "t4",
      log: silentLogger,
      orb: { machine: "box" },
    });
    return {
      runtime,
      close: async () => {
        await runtime.close();
        rmSync(stateDir, { recursive: true, force: true });
        orb.remove();
        storage.remove();
      },
    };
  },
  {
    image: testImage,
    lacks: ["directory"],
    deviations: elsewhere,
    ...shortRuntime,
  },
);
