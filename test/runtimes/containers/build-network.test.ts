import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { BuildNetwork } from "../../../src/contracts/images.ts";
import type { Runtime } from "../../../src/contracts/runtime.ts";
import { silentLogger } from "../../../src/lib/log.ts";
import { createApiClient } from "../../../src/runtimes/containers/api-client.ts";
import { openConnection } from "../../../src/runtimes/containers/endpoint.ts";
import { openDockerRuntime } from "../../../src/runtimes/docker/runtime.ts";
import { podmanGuards, thisMachine } from "../../../src/runtimes/podman/guards.ts";
import { openPodman } from "../../../src/runtimes/podman/open-podman.ts";
import { piecesOf } from "../../../src/testing/tar.ts";
import { eventually } from "../../../src/testing/wait.ts";
import { startDockerd } from "../docker/support/dockerd.ts";
import { makeStorage } from "../podman/support/storage.ts";
import { contextOf, scratch } from "./support/contexts.ts";

/** Network devices that a command of a build sees. */
async function devices({ images }: Runtime, network?: BuildNetwork): Promise<string[]> {
  const lines: string[] = [];
  const tag = "my/network:1";
  await images.store?.build({
    tag,
    context: piecesOf(contextOf(`${scratch}RUN busybox cat /proc/net/dev`)),
    noCache: true,
    ...(network === undefined ? {} : { network }),
    onProgress: (progress) => "line" in progress && lines.push(progress.line),
  });
  await images.store?.remove(tag);
  return lines.flatMap((line) => /^\s*(\w+):\s+\d/.exec(line)?.[1] ?? []).sort();
}

// Each engine has a network namespace of its own, in which it may make what bridges it likes.
const openers = {
  async podman(stateDir: string) {
    const storage = makeStorage({ image: false });
    const socket = join(stateDir, "api");
    const serve = 'ip link set lo up && exec podman system service --time=0 "unix://$1"';
    const service = spawn("unshare", ["--net", "--mount", "sh", "-c", serve, "sh", socket], {
      stdio: ["ignore", "ignore", "inherit"],
      cwd: stateDir,
    });
    await eventually("podman's service", async () => {
      const connection = await openConnection({ kind: "unix", path: socket }).catch(() => undefined);
      return connection?.destroy();
    });
    const client = createApiClient({ kind: "unix", path: socket });
    const guards = await podmanGuards(thisMachine(stateDir));
    const runtime = await openPodman(
      { stateDir, ownerId: "t6", log: silentLogger },
      { client, uid: 0, guards, close: async () => client.close() },
    );
    const close = async () => {
      service.kill("SIGTERM");
      if (service.exitCode === null && service.signalCode === null) await once(service, "exit");
      storage.remove();
    };
    return { runtime, close };
  },
  async docker(stateDir: string) {
    const daemon = await startDockerd({ config: { bridge: "" } });
    const docker = { host: daemon.url, configDir: "/nonexistent" };
    const runtime = await openDockerRuntime({ stateDir, ownerId: "t6", log: silentLogger, docker });
    return { runtime, close: () => daemon.end() };
  },
};

describe.each(Object.entries(openers))("a build of %s", (name, open) => {
  it("has the engine's network when it is given one, and none otherwise", async () => {
    const stateDir = mkdtempSync(join(tmpdir(), "wbnet-"));
    mkdirSync(join(stateDir, name), { recursive: true });
    try {
      const { runtime, close } = await open(stateDir);
      try {
        expect(await devices(runtime)).toEqual(["lo"]);
        expect(await devices(runtime, "none")).toEqual(["lo"]);
        expect(await devices(runtime, "open")).toEqual(["eth0", "lo"]);
        await runtime.close();
      } finally {
        await close();
      }
    } finally {
      rmSync(stateDir, { recursive: true, force: true });
    }
  });
});
