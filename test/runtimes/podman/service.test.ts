import { spawn } from "node:child_process";
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { silentLogger } from "../../../src/lib/log.ts";
import { isAlive, readProcess } from "../../../src/lib/processes.ts";
import { openConnection } from "../../../src/runtimes/containers/endpoint.ts";
import { serviceEnvironment } from "../../../src/runtimes/podman/environment.ts";
import { findService } from "../../../src/runtimes/podman/find-service.ts";
import { openPodmanRuntime } from "../../../src/runtimes/podman/runtime.ts";
import { openService, type PodmanService } from "../../../src/runtimes/podman/service.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { eventually } from "../../../src/testing/wait.ts";
import { commandLines, openPodmanRig } from "./support/open.ts";
import { makeStorage, type TestStorage } from "./support/storage.ts";

let storage: TestStorage;
beforeAll(() => {
  storage = makeStorage();
});
afterAll(() => storage.remove());

describe("a service of our own", () => {
  let dir: string;
  const opened: PodmanService[] = [];
  const open = async (idleS = 60) => {
    dir ??= mkdtempSync(join(tmpdir(), "wsvc-"));
    const env = await serviceEnvironment(process.env, 0, dir);
    const service = await openService({ dir, env, idleS });
    opened.push(service);
    return service;
  };
  const pid = () => JSON.parse(readFileSync(join(dir, "service.json"), "utf8")).pid as number;
  const lives = (of: number) => isAlive({ pid: of, startTime: readProcess(of)?.startTime ?? -1 });
  const running = () => commandLines().filter((line) => line.includes(`unix://${dir}/api`));
  afterEach(async () => {
    for (const service of opened.splice(0)) await service.close();
    await expect.poll(running).toEqual([]);
    rmSync(dir, { recursive: true, force: true });
    (dir as string | undefined) = undefined;
  });

  it("ends with us, and leaves no socket", async () => {
    const service = await open();
    const first = pid();
    expect(lives(first)).toBe(true);
    // Not in a directory of whoever called us, which it would hold, and leave files in.
    expect(readlinkSync(`/proc/${first}/cwd`)).toBe(realpathSync(dir));
    await service.close();
    expect(lives(first)).toBe(false);
    expect(existsSync(join(dir, "api"))).toBe(false);
    await expectFailure(service.revive(), "runtime_unavailable");
  });

  it("ends by itself when nobody asks it anything, and is started once for all who want it back", async () => {
    const service = await open(1);
    const first = pid();
    await eventually("its end", () => !lives(first), 20_000);
    await Promise.all([service.revive(), service.revive(), service.revive()]);
    // What it starts has its command line for a moment.
    await expect.poll(running).toHaveLength(1);
    (await openConnection(service.endpoint)).destroy();
  });

  it("is taken over from an engine that was killed", async () => {
    await open();
    const first = pid();
    const service = await open();
    expect(lives(first)).toBe(false);
    expect(lives(pid())).toBe(true);
    (await openConnection(service.endpoint)).destroy();
    await expect.poll(running).toHaveLength(1);
  });

  it("never ends a process that only has the number of the one before", async () => {
    dir = mkdtempSync(join(tmpdir(), "wsvc-"));
    const innocent = spawn("sleep", ["600"]);
    try {
      const startTime = readProcess(innocent.pid as number)?.startTime;
      writeFileSync(join(dir, "service.json"), JSON.stringify({ pid: innocent.pid, startTime }));
      writeFileSync(join(dir, "api"), "no socket");
      await open();
      expect(lives(innocent.pid as number)).toBe(true);
      writeFileSync(join(dir, "service.json"), "{garbage");
      await open();
    } finally {
      innocent.kill();
    }
  });

  it("is refused where its socket's path would be too long, or there is no Podman", async () => {
    dir = mkdtempSync(join(tmpdir(), "wsvc-"));
    const long = join(dir, "x".repeat(120));
    await expectFailure(openService({ dir: long, env: {} }), "runtime_unavailable");
    const missing = await expectFailure(
      openService({ dir, env: { PATH: "/nonexistent" } }),
      "runtime_unavailable",
    );
    expect(missing).toMatchObject({ message: "podman is not installed", hint: "apt-get install podman" });
    writeFileSync(join(dir, "podman"), "#!/bin/sh\necho 'Error: no storage for you' >&2\nexit 125\n", {
      mode: 0o755,
    });
    const failed = await expectFailure(
      openService({ dir, env: { PATH: `${dir}:/usr/bin:/bin` } }),
      "runtime_unavailable",
    );
    expect(failed.message).toContain("Error: no storage for you");
  });
});

describe("a service that is there already", () => {
  it("is found as the podman command finds it", async () => {
    const dir = mkdtempSync(join(tmpdir(), "wsvc-"));
    const service = await openService({ dir, env: await serviceEnvironment(process.env, 0, dir) });
    const { path } = service.endpoint as { path: string };
    try {
      expect(await findService({ CONTAINER_HOST: `unix://${path}` }, 0)).toMatchObject({
        kind: "unix",
        path,
      });
      await expectFailure(findService({ CONTAINER_HOST: `unix://${dir}/none` }, 0), "runtime_unavailable");
      await expectFailure(findService({ CONTAINER_HOST: "ssh://root@host/x" }, 0), "unsupported");
      // No directory of ours: as if somebody else had put a socket there.
      expect(await findService({ XDG_RUNTIME_DIR: dir }, 12_345)).toBeUndefined();
      process.env.CONTAINER_HOST = `unix://${path}`;
      const stateDir = join(dir, "state");
      const runtime = await openPodmanRuntime({ stateDir, ownerId: "t1", log: silentLogger });
      expect(await runtime.list()).toEqual([]);
      await runtime.close();
      expect(existsSync(join(stateDir, "podman/service.json"))).toBe(false);
      (await openConnection(service.endpoint)).destroy();
    } finally {
      delete process.env.CONTAINER_HOST;
      await service.close();
      rmSync(dir, { recursive: true });
    }
  });
});

describe("an engine whose service is killed", () => {
  it("goes on, and its sandboxes with it", async () => {
    const rig = await openPodmanRig({ storage });
    const { id, sh } = await rig.box();
    process.kill(rig.servicePid(), "SIGKILL");
    expect(await sh("echo still here")).toBe("still here\n");
    const states = await Promise.all([1, 2, 3].map(() => rig.runtime.inspect(id)));
    expect(states.map((state) => state?.state)).toEqual(["running", "running", "running"]);
    process.kill(rig.servicePid(), "SIGKILL");
    await rig.runtime.stop(id, { timeoutMs: 1000 });
    expect((await rig.runtime.inspect(id))?.state).toBe("stopped");
    await rig.close();
  });

  it("leaves nothing of a create that it cut short", async () => {
    const rig = await openPodmanRig({ storage });
    for (const delayMs of [1, 10, 25, 50, 100]) {
      const spec = await rig.spec();
      const created = rig.runtime.create(spec).then(
        () => true,
        () => false,
      );
      const killed = sleep(delayMs).then(() => process.kill(rig.servicePid(), "SIGKILL"));
      const done = await created;
      // A quick create is over before.
      await killed;
      expect((await rig.runtime.list()).map(({ id }) => id)).toEqual(done ? [spec.id] : []);
      await rig.runtime.remove(spec.id);
    }
    await rig.close();
  });
});

describe("two engines", () => {
  it("live side by side, and see only what is theirs", async () => {
    const [one, two] = [await openPodmanRig({ storage }), await openPodmanRig({ storage })];
    const [a, b] = [await one.box(), await two.box()];
    expect((await one.runtime.list()).map(({ id }) => id)).toEqual([a.id]);
    expect((await two.runtime.list()).map(({ id }) => id)).toEqual([b.id]);
    await one.runtime.remove(b.id);
    expect(await b.sh("echo mine")).toBe("mine\n");
    await one.close();
    expect(await b.sh("echo mine")).toBe("mine\n");
    await two.close();
  });
});
