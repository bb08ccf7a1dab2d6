import { readdirSync } from "node:fs";
import { join } from "node:path";
import { silentLogger } from "../../src/lib/log.ts";
import { openFakeRuntime } from "../../src/runtimes/fake/runtime.ts";
import { testRuntime } from "../../src/testing/index.ts";
import { removeStateDir } from "../engine/support/engine.ts";
import { tempDir } from "../engine/support/temp-dir.ts";

let base = "";

testRuntime(
  "fake",
  async () => {
    const dir = tempDir();
    base = join(dir.path, "fake");
    const runtime = await openFakeRuntime({ stateDir: dir.path, ownerId: "testtest", log: silentLogger });
    return {
      runtime,
      close: async () => {
        await runtime.close();
        await removeStateDir(dir.path);
      },
    };
  },
  {
    lacks: ["memory", "cpu", "pids", "pause", "imageStore"],
    leftovers: (id) => readdirSync(base).filter((name) => name.includes(id)),
    deviations: [
      {
        reason: "bubblewrap makes no place for a mount below a link",
        tests: ["does not follow a link of the image to the host"],
      },
      {
        reason: "bubblewrap can't mount a tmpfs without exec",
        tests: ["runs no program from a tmpfs without exec"],
      },
    ],
  },
);
