import { randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import type { Runtime } from "../../../../src/contracts/runtime.ts";
import type { OnStep } from "../../../../src/contracts/steps.ts";
import { silentLogger } from "../../../../src/lib/log.ts";
import { openPodmanRuntime } from "../../../../src/runtimes/podman/runtime.ts";
import { eventually } from "../../../../src/testing/wait.ts";
import { type Boxes, createBoxes } from "../../common/support/boxes.ts";
import { makeStorage, type TestStorage, testImage } from "./storage.ts";

/** A podman runtime on a state directory of its own. */
export interface PodmanRig extends Boxes {
  runtime: Runtime;
  storage: TestStorage;
  stateDir: string;
  ownerId: string;
  /** Opens the state directory again, as the next engine does after one that was killed. */
  reopen(): Promise<Runtime>;
  /** Name of a sandbox's container. */
  container(id: string): string;
  /** Pid of the service that the runtime has started. */
  servicePid(): number;
  /** Removes all sandboxes, closes, and expects that nothing is left. */
  close(): Promise<void>;
}

/** `storage`: of the caller, who removes it. */
export async function openPodmanRig({
  storage: given,
  onStep,
}: {
  storage?: TestStorage;
  onStep?: OnStep;
} = {}): Promise<PodmanRig> {
  const storage = given ?? makeStorage();
  const stateDir = mkdtempSync(join(tmpdir(), "wpod-"));
  const ownerId = `t${randomBytes(5).toString("hex")}`;
  const open = () =>
    openPodmanRuntime({ stateDir, ownerId, log: silentLogger, ...(onStep ? { onStep } : {}) });
  const opened = [await open()];
  const current = () => opened.at(-1) as Runtime;
  const self: PodmanRig = {
    get runtime() {
      return current();
    },
    storage,
    stateDir,
    ownerId,
    async reopen() {
      opened.push(await open());
      return current();
    },
    ...createBoxes(current, () => current().images.ensure(testImage), "container"),
    container: (id) => `warren-${ownerId}-${id}`,
    servicePid: () => JSON.parse(readFileSync(join(stateDir, "podman/service.json"), "utf8")).pid,
    async close() {
      try {
        for (const { id } of await current().list()) await current().remove(id);
        const left = storage.podman("ps", "--all", "--external", "--format={{.Names}}");
        expect(left.split("\n").filter((name) => name.includes(ownerId))).toEqual([]);
        for (const runtime of opened.reverse()) await runtime.close();
        const mine = () => commandLines().filter((line) => line.includes(stateDir));
        // What is left is told better by what there is than by what was waited for in vain.
        await eventually("the end of it", () => mine().length === 0).catch(() => {});
        expect(mine()).toEqual([]);
        expect(readdirSync(join(stateDir, "podman/sandboxes"))).toEqual([]);
      } finally {
        rmSync(stateDir, { recursive: true, force: true });
        if (!given) storage.remove();
      }
    },
  };
  return self;
}

/** Of all processes of the host. */
export function commandLines(): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
      } catch {
        return "";
      }
    });
}
