import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Runtime } from "../../../../src/contracts/runtime.ts";
import { silentLogger } from "../../../../src/lib/log.ts";
import { openDockerRuntime } from "../../../../src/runtimes/docker/runtime.ts";
import { writeImageTar } from "../../containers/support/image.ts";
import { cgroupDirs, type Dockerd, type DockerdOptions, startDockerd } from "./dockerd.ts";

/** The common test image's name. */
export const IMAGE = "warren-base:1";

export interface DockerRig {
  daemon: Dockerd;
  runtime: Runtime;
  stateDir: string;
  ownerId: string;
  /** Opens the state directory again, as the next engine does. The runtime before must be closed. */
  reopen(): Promise<Runtime>;
  /** What of this sandbox is left: containers, volumes, cgroups, directories. */
  leftovers(id: string): Promise<string[]>;
  close(): Promise<void>;
}

/** A daemon, and a runtime that uses it. */
export async function openDockerRig(options: DockerdOptions = {}): Promise<DockerRig> {
  const daemon = await startDockerd(options);
  const stateDir = mkdtempSync(join(tmpdir(), "wdocker-"));
  const ownerId = "t1";
  const open = () =>
    openDockerRuntime({
      stateDir,
      ownerId,
      log: silentLogger,
      docker: { host: daemon.url, configDir: "/nonexistent" },
    });
  const end = async () => {
    await daemon.end();
    rmSync(stateDir, { recursive: true, force: true });
  };
  try {
    await importImage(daemon);
    let runtime = await open();
    return {
      daemon,
      stateDir,
      ownerId,
      get runtime() {
        return runtime;
      },
      async reopen() {
        runtime = await open();
        return runtime;
      },
      async leftovers(id) {
        const containers = await daemon.cli("ps", "-aq", "--filter", `name=${id}`);
        const volumes = await daemon.cli("volume", "ls", "-q");
        const dirs = readdirSync(join(stateDir, "docker", "sandboxes")).filter((name) => name.includes(id));
        // Each container has a directory of its own there.
        const cgroups = cgroupDirs(daemon.cgroup).filter((dir) => dir.includes(id));
        return [containers, volumes, ...dirs, ...cgroups].filter((line) => line !== "");
      },
      async close() {
        try {
          await runtime.close();
        } finally {
          await end();
        }
      },
    };
  } catch (error) {
    await end();
    throw error;
  }
}

async function importImage(daemon: Dockerd): Promise<void> {
  const tar = join(daemon.home, "image.tar");
  writeImageTar(tar);
  await daemon.cli("import", tar, IMAGE);
  rmSync(tar);
}
