import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "../../src/lib/log.ts";
import { openPodmanRuntime } from "../../src/runtimes/podman/runtime.ts";
import { testRuntime } from "../../src/testing/index.ts";
import { elsewhere } from "../runtimes/podman/support/elsewhere.ts";
import { standInOrb } from "../runtimes/podman/support/orb.ts";
import { makeStorage, testImage } from "../runtimes/podman/support/storage.ts";

/** Each connection starts a program and, through it, another. What is left out is what podman-exec.test.ts has. */
const short = [
  "says what it can do",
  "creates without running anything, then runs",
  "keeps files over stop and start",
  "leaves nothing of a create that fails",
  "sees that a sandbox's first process was killed",
  "tells what a sandbox uses",
  "keeps stdout and stderr apart, and tells the exit code",
  "carries stdin to its end",
  "gives a terminal that can be resized and interrupted",
  "streams a file that is larger than any buffer",
  "reaches a port inside, and only inside",
  "starts the main command, and tells its end",
  "tells by its wait connection that the guest is gone",
  "keeps a read-only root as it is",
  "freezes and thaws, and ends what is frozen",
];

const all = process.env.WARREN_LONG === "1";

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
    ...(all ? {} : { only: { tests: short, why: "slow: runs with WARREN_LONG=1" } }),
  },
);
