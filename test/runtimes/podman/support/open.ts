import { randomBytes } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import type { Runtime, RuntimeSpec } from "../../../../src/contracts/runtime.ts";
import type { OnStep } from "../../../../src/contracts/steps.ts";
import { createGuestClient } from "../../../../src/guest/client.ts";
import type { GuestClient } from "../../../../src/guest/types.ts";
import { silentLogger } from "../../../../src/lib/log.ts";
import { openPodmanRuntime } from "../../../../src/runtimes/podman/runtime.ts";
import { noLimits, shellInside } from "../../../../src/testing/guest-tools.ts";
import { makeStorage, type TestStorage, testImage } from "./storage.ts";

/** A podman runtime on a state directory of its own. */
export interface PodmanRig {
  runtime: Runtime;
  storage: TestStorage;
  stateDir: string;
  ownerId: string;
  /** Opens the state directory again, as the next engine does after one that was killed. */
  reopen(): Promise<Runtime>;
  spec(patch?: Partial<RuntimeSpec>): Promise<RuntimeSpec>;
  /** Creates and starts a sandbox. */
  box(patch?: Partial<RuntimeSpec>): Promise<Box>;
  /** Name of a sandbox's container. */
  container(id: string): string;
  /** Pid of the service that the runtime has started. */
  servicePid(): number;
  /** Removes all sandboxes, closes, and expects that nothing is left. */
  close(): Promise<void>;
}

export interface Box {
  id: string;
  pid: number;
  guest: GuestClient;
  /** Standard output of a shell script; fails the test when it doesn't exit with 0. */
  sh(script: string, user?: string): Promise<string>;
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
    async spec(patch = {}) {
      const id = `t${randomBytes(6).toString("hex")}`;
      return {
        id,
        image: patch.image ?? (await current().images.ensure(testImage)),
        env: {},
        workdir: "/",
        hostname: id,
        labels: {},
        network: "none",
        isolation: "container",
        readonlyRoot: false,
        tmpfs: [],
        mounts: [],
        limits: noLimits,
        ...patch,
      };
    },
    async box(patch) {
      const spec = await self.spec(patch);
      await current().create(spec);
      const { pid } = await current().start(spec.id);
      const guest = createGuestClient(() => current().connect(spec.id));
      return {
        id: spec.id,
        pid,
        guest,
        async sh(script, user) {
          const result = await shellInside(guest, script, user === undefined ? {} : { user });
          expect(result.exit_code, result.stderr).toBe(0);
          return result.stdout;
        },
      };
    },
    container: (id) => `warren-${ownerId}-${id}`,
    servicePid: () => JSON.parse(readFileSync(join(stateDir, "podman/service.json"), "utf8")).pid,
    async close() {
      try {
        for (const { id } of await current().list()) await current().remove(id);
        const left = storage.podman("ps", "--all", "--external", "--format={{.Names}}");
        expect(left.split("\n").filter((name) => name.includes(ownerId))).toEqual([]);
        for (const runtime of opened.reverse()) await runtime.close();
        expect(commandLines().filter((line) => line.includes(stateDir))).toEqual([]);
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
