import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import type { Step } from "../../src/contracts/steps.ts";
import { openTestRuntime } from "../runtimes/oci/support/open.ts";
import { buildEngine } from "./support/engine-process.ts";
import { at, TIMEOUT_MS } from "./support/matrix.ts";

let program: string;
beforeAll(async () => {
  program = await buildEngine("builder");
});

/** Those of a build alone, and those at which its result is made an image. */
const steps: Step[] = [
  ...at("building"),
  "image.oci-begun",
  "image.oci-unpacked",
  "image.oci-made",
  "image.oci-named",
];

describe("an engine that is killed in a build", () => {
  it.each(steps)(
    "at %s leaves the image whole or not at all, and nothing else",
    { timeout: TIMEOUT_MS },
    async (step) => {
      const made = await openTestRuntime("crun");
      await made.runtime.close();
      const tag = "wtest-crash/tiny:1";
      const args = [program, made.stateDir, made.ownerId, step, tag];
      const engine = spawn(process.execPath, args, { stdio: ["ignore", "inherit", "inherit"] });
      const [, signal] = await once(engine, "exit");
      expect(signal, `${step} is reached`).toBe("SIGKILL");
      const runtime = await made.reopen();
      expect(await runtime.list()).toEqual([]);
      const sandboxes = readdirSync(join(made.stateDir, "oci/sandboxes"));
      expect(sandboxes.filter((id) => id.includes("build-"))).toEqual([]);
      const images = join(made.stateDir, "oci/images/oci");
      const isThere = (await runtime.images.store?.inspect(tag)) !== undefined;
      const unpacked = existsSync(images) ? readdirSync(images).filter((name) => name !== "refs") : [];
      expect(unpacked).toHaveLength(isThere ? 1 : 0);
      expect(isThere).toBe(step === "image.oci-named");
      if (isThere) {
        const box = await made.box({ image: await runtime.images.ensure(tag) });
        expect(await box.sh("busybox stat -c %u /made")).toBe("0\n");
        await runtime.remove(box.id);
      }
      await runtime.images.store?.remove(tag);
      await made.close();
    },
  );
});
