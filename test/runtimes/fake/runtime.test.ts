import { execFile } from "node:child_process";
import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it, onTestFinished } from "vitest";
import type { RuntimeSpec } from "../../../src/contracts/runtime.ts";
import { createGuestClient } from "../../../src/guest/client.ts";
import { silentLogger } from "../../../src/lib/log.ts";
import { findMarked } from "../../../src/runtimes/fake/processes.ts";
import { openFakeRuntime } from "../../../src/runtimes/fake/runtime.ts";
import { shellInside } from "../../../src/testing/guest-tools.ts";
import { processLives } from "../../../src/testing/runtime-fixture.ts";
import { fakeRuntime, OWNER_ID, stateDir } from "../../engine/support/engine.ts";

const spec: RuntimeSpec = {
  id: "abcdabcdabcdabcd",
  image: { id: "host", reference: "host", env: {} },
  env: {},
  workdir: "/",
  hostname: "box",
  labels: {},
  network: "none",
  isolation: "container",
  readonlyRoot: false,
  tmpfs: [],
  mounts: [],
  limits: { memoryBytes: 0, cpuNano: 0, pids: 0 },
};

it("shows the environment to nobody who lists processes", async () => {
  const dir = stateDir();
  const runtime = await fakeRuntime(dir.path);
  await runtime.create({ ...spec, env: { SECRET: "do-not-show" } });
  const { pid } = await runtime.start(spec.id);
  const monitors = findMarked(`warren-fake:${OWNER_ID}:${spec.id}`);
  expect(monitors).toHaveLength(1);
  for (const shown of [pid, ...monitors.map((monitor) => monitor.pid)]) {
    expect(readFileSync(`/proc/${shown}/cmdline`, "utf8")).not.toContain("do-not-show");
  }
});

it("lets nothing of the environment reach bwrap itself", async () => {
  const dir = stateDir();
  const runtime = await fakeRuntime(dir.path);
  await runtime.create({ ...spec, env: { LD_PRELOAD: "/nonexistent.so", "--ro-bind": "x" } });
  await runtime.start(spec.id);
  const guest = createGuestClient(() => runtime.connect(spec.id));
  expect((await shellInside(guest, "echo fine")).stdout).toBe("fine\n");
});

it("finds and ends what runs although nothing was written down", async () => {
  const dir = stateDir();
  const first = await fakeRuntime(dir.path);
  await first.create(spec);
  const { pid } = await first.start(spec.id);
  rmSync(join(dir.path, "fake", spec.id, "run.json"));
  const second = await fakeRuntime(dir.path);
  await second.remove(spec.id);
  expect(findMarked(`warren-fake:${OWNER_ID}:${spec.id}`)).toEqual([]);
  expect(processLives(pid)).toBe(false);
  expect(await second.list()).toEqual([]);
});

it("does not take a process for its own that only has the same pid", async () => {
  const dir = stateDir();
  const runtime = await fakeRuntime(dir.path);
  await runtime.create(spec);
  const mine = { pid: process.pid, startTime: 1 };
  writeFileSync(join(dir.path, "fake", spec.id, "run.json"), JSON.stringify({ guest: mine, monitor: mine }));
  expect((await runtime.inspect(spec.id))?.state).toBe("stopped");
  await runtime.stop(spec.id, { timeoutMs: 0 });
  await runtime.remove(spec.id);
});

it("says why a sandbox does not start", async () => {
  const dir = stateDir();
  const runtime = await fakeRuntime(dir.path);
  await runtime.create({ ...spec, workdir: "/etc/passwd/below-a-file" });
  await expect(runtime.start(spec.id)).rejects.toMatchObject({
    code: "runtime_failed",
    message: expect.stringMatching(/bwrap/),
  });
  expect(findMarked(`warren-fake:${OWNER_ID}:${spec.id}`)).toEqual([]);
});

it("refuses a state directory whose sockets would have no room for their path", async () => {
  const dir = stateDir();
  const deep = join(dir.path, "x".repeat(100));
  await expect(
    openFakeRuntime({ stateDir: deep, ownerId: OWNER_ID, log: silentLogger }),
  ).rejects.toMatchObject({
    code: "invalid_request",
  });
});

it.runIf(process.getuid?.() === 0)(
  "works for an ordinary user [needs root to become one]",
  { timeout: 60_000 },
  async () => {
    const { path } = stateDir();
    const home = join(path, "theirs");
    mkdirSync(home);
    chmodSync(path, 0o755);
    chmodSync(home, 0o777);
    onTestFinished(() => rmSync(home, { recursive: true, force: true }));
    const support = (name: string) => fileURLToPath(new URL(`../../engine/support/${name}`, import.meta.url));
    const { stdout } = await promisify(execFile)("setpriv", [
      ...["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"],
      ...[process.execPath, "--import", support("typescript.mjs"), support("ordinary-user.mjs"), home],
    ]);
    expect(JSON.parse(stdout)).toEqual({ uid: 65534, said: "0\n", left: [] });
  },
);
