import { copyFileSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import type { Runtime } from "../../../../src/contracts/runtime.ts";
import { silentLogger } from "../../../../src/lib/log.ts";
import { openDockerRuntime } from "../../../../src/runtimes/docker/runtime.ts";
import type { DockerSettings } from "../../../../src/runtimes/factory.ts";
import { type RuntimeFixture, runtimeFixture } from "../../../../src/testing/runtime-fixture.ts";
import { eventually } from "../../../../src/testing/wait.ts";
import { writeImageTar } from "../../containers/support/image.ts";
import { cgroupDirs, type Dockerd, type DockerdOptions, startDockerd } from "./dockerd.ts";

/** The common test image's name. */
export const IMAGE = "warren-base:1";

export interface DockerRig {
  daemon: Dockerd;
  runtime: Runtime;
  fixture: RuntimeFixture;
  stateDir: string;
  ownerId: string;
  /** Opens the state directory again, as the next engine does. The runtime before must be closed. */
  reopen(): Promise<Runtime>;
  /** The daemon's name of a sandbox. */
  containerOf(id: string): string;
  /** What there is in the daemon, and in the state directory, of any sandbox. */
  leftovers(id?: string): Promise<string[]>;
  /** Expects that nothing of a sandbox is left. */
  close(): Promise<void>;
}

export interface RigOptions extends DockerdOptions {
  settings?: (daemon: Dockerd) => DockerSettings;
}

/** A daemon with the test image, and a runtime that uses it. */
export async function openDockerRig({ settings, ...options }: RigOptions = {}): Promise<DockerRig> {
  const daemon = await startDockerd(options);
  const stateDir = mkdtempSync(join(tmpdir(), "wdocker-"));
  const ownerId = "t1";
  const docker = settings?.(daemon) ?? { host: daemon.url };
  let runtime: Runtime;
  let fixture: RuntimeFixture;
  const open = async () => {
    runtime = await openDockerRuntime({ stateDir, ownerId, log: silentLogger, docker });
    fixture = runtimeFixture(runtime, { image: IMAGE, isolation: "container" });
    return runtime;
  };
  const end = async () => {
    await daemon.end();
    rmSync(stateDir, { recursive: true, force: true });
  };
  const leftovers = async (id = "") => {
    const containers = await daemon.cli("ps", "-aq", "--filter", `name=${id}`);
    const volumes = await daemon.cli("volume", "ls", "-q");
    const dirs = readdirSync(join(stateDir, "docker", "sandboxes")).filter((name) => name.includes(id));
    const running = (await daemon.cli("ps", "-q")) === "";
    const cgroups = running ? cgroupDirs(daemon.cgroup).filter((dir) => /[0-9a-f]{64}/.test(dir)) : [];
    return [containers, volumes, ...dirs, ...cgroups].filter((line) => line !== "");
  };
  try {
    await importImage(daemon);
    await open();
  } catch (error) {
    await end();
    throw error;
  }
  return {
    daemon,
    stateDir,
    ownerId,
    get runtime() {
      return runtime;
    },
    get fixture() {
      return fixture;
    },
    reopen: open,
    containerOf: (id) => `warren-${ownerId}-${id}`,
    leftovers,
    async close() {
      try {
        await fixture.clean();
        // What is left is told better by what there is than by what was waited for in vain.
        await eventually("the end of it", async () => (await leftovers()).length === 0).catch(() => {});
        expect(await leftovers()).toEqual([]);
        await runtime.close();
      } finally {
        await end();
      }
    },
  };
}

export async function importImage(daemon: Dockerd): Promise<void> {
  const tar = join(daemon.home, "image.tar");
  writeImageTar(tar);
  await daemon.cli("import", tar, IMAGE);
  rmSync(tar);
}

/** An image that `docker build` makes of the test image, or of nothing but what the Dockerfile copies from `context`. */
export async function buildImage(
  daemon: Dockerd,
  name: string,
  dockerfile: string,
  files: Record<string, string> = {},
): Promise<string> {
  const context = mkdtempSync(join(daemon.home, "context-"));
  writeFileSync(join(context, "Dockerfile"), dockerfile);
  for (const [to, from] of Object.entries(files)) copyFileSync(from, join(context, to));
  await daemon.cli("build", "--network", "none", "-q", "-t", name, context);
  return name;
}
