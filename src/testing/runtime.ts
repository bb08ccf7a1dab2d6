import { randomBytes } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, expect } from "vitest";
import type { Runtime } from "../contracts/runtime.ts";
import type { Isolation } from "../contracts/sandbox.ts";
import { expectFailure } from "./failures.ts";
import { commandLinesInside, readAll, shellInside } from "./guest-tools.ts";
import {
  type Ability,
  newId,
  processLives,
  type RuntimeContext,
  type RuntimeFixture,
  runtimeFixture,
} from "./runtime-fixture.ts";
import { testImageStore } from "./runtime-images.ts";
import { testInside } from "./runtime-inside.ts";
import { testLimits } from "./runtime-limits.ts";
import { testMounts } from "./runtime-mounts.ts";
import { testNetwork } from "./runtime-network.ts";
import { testServices } from "./runtime-services.ts";
import { testSnapshots } from "./runtime-snapshots.ts";
import { defineSuite, type SuiteOptions } from "./suite.ts";
import { eventually, within } from "./wait.ts";

export interface RuntimeSuiteOptions extends SuiteOptions {
  /** Image with a POSIX shell, coreutils and perl, such as Debian's. Default `host`. */
  image?: string;
  /** What stands between a sandbox of the suite and the host's kernel. Default `container`. */
  isolation?: Isolation;
  /** What the runtime can't do; must be just what its capabilities say. Tests of it are skipped by name. */
  lacks?: readonly Ability[];
  /** What of this sandbox still exists on the host, beside processes and mounts. Must become empty on remove. */
  leftovers?: (id: string) => Promise<string[]> | string[];
}

/** Tests that every runtime must pass: a driver's whole port, and a guest that is reached through it. */
export function testRuntime(
  name: string,
  make: () => Promise<{ runtime: Runtime; close: () => Promise<void> }>,
  options: RuntimeSuiteOptions = {},
): void {
  const { image = "host", isolation = "container", lacks = [], leftovers = () => [] } = options;
  defineSuite(`runtime ${name}`, options, (test) => {
    let made: Awaited<ReturnType<typeof make>>;
    let fixture: RuntimeFixture;
    beforeAll(async () => {
      made = await make();
      fixture = runtimeFixture(made.runtime, { image, isolation });
    });
    afterEach(() => fixture.clean());
    afterAll(async () => {
      const left = [await made.runtime.list(), await made.runtime.snapshots?.list()].flat();
      await made.close();
      expect(left.filter(Boolean)).toEqual([]);
    });
    const context: RuntimeContext = {
      test,
      fixture: () => fixture,
      unless: (...abilities) => abilities.find((ability) => lacks.includes(ability)),
    };

    test("says what it can do", async () => {
      const { runtime } = fixture;
      const { capabilities } = runtime;
      const claims: Record<Ability, boolean> = {
        memory: capabilities.limits.includes("memory"),
        cpu: capabilities.limits.includes("cpu"),
        pids: capabilities.limits.includes("pids"),
        pause: capabilities.pause,
        readonlyRoot: capabilities.readonlyRoot,
        tmpfs: capabilities.tmpfs,
        directory: capabilities.images.includes("directory"),
        volumes: capabilities.volumes && runtime.volumes !== undefined,
        binds: capabilities.binds,
        imageStore: capabilities.imageStore && runtime.images.store !== undefined,
        snapshots: capabilities.snapshots && runtime.snapshots !== undefined,
        users: !lacks.includes("users"), // not a capability: depends on who runs the test
      };
      for (const [ability, able] of Object.entries(claims)) {
        expect(able, ability).toBe(!lacks.includes(ability as Ability));
      }
      expect(capabilities.networkModes).toContain("none");
      expect(capabilities.isolation).toContain(isolation);
      expect(await fixture.runtime.probe()).toMatchObject({ runtime: fixture.runtime.name, usable: true });
    });
    testLifecycle(context);
    testTruth(context, leftovers);
    testImages(context);
    testInside(context);
    testLimits(context);
    testMounts(context);
    testNetwork(context);
    testServices(context);
    testImageStore(context);
    testSnapshots(context, leftovers);
  });
}

function testLifecycle({ test, fixture }: RuntimeContext): void {
  test("creates without running anything, then runs", async () => {
    const { runtime, spec } = fixture();
    const wanted = await spec();
    await runtime.create(wanted);
    const created = await runtime.inspect(wanted.id);
    expect(created).toMatchObject({ id: wanted.id });
    expect(created?.state).toMatch(/^(created|stopped)$/);
    expect(created).not.toHaveProperty("pid");
    await expectFailure(runtime.connect(wanted.id), "guest_failed");
    const { pid } = await runtime.start(wanted.id);
    expect(processLives(pid)).toBe(true);
    expect(await runtime.inspect(wanted.id)).toEqual({ id: wanted.id, state: "running", pid });
    expect(await fixture().guest(wanted.id).hello()).toMatchObject({ protocol: 1 });
  });

  test("keeps files over stop and start", async () => {
    const { runtime, box } = fixture();
    const { id, pid, guest } = await box();
    await guest.writeFile("/opt/kept", Buffer.from("still here"), { parents: true });
    await shellInside(guest, "chmod 750 /opt/kept && ln -s kept /opt/link && mkdir /opt/empty");
    await runtime.stop(id, { timeoutMs: 5000 });
    expect(processLives(pid)).toBe(false);
    expect(await runtime.inspect(id)).toEqual({ id, state: "stopped" });
    await runtime.start(id);
    expect((await readAll((await guest.readFile("/opt/link")).body)).toString()).toBe("still here");
    expect(await guest.stat("/opt/kept")).toMatchObject({ permissions: 0o750 });
    expect(await guest.stat("/opt/empty")).toMatchObject({ type: "directory" });
  });

  test("takes a second stop and a second remove as success", async () => {
    const { runtime, box } = fixture();
    const { id } = await box();
    for (let i = 0; i < 2; i++) await runtime.stop(id, { timeoutMs: 0 });
    for (let i = 0; i < 2; i++) await runtime.remove(id);
    expect(await runtime.inspect(id)).toBeUndefined();
    await runtime.remove(newId());
  });

  test("ends everything gently, and what ignores that by force", async () => {
    const { runtime, box } = fixture();
    const { id, guest } = await box();
    const spawn = (script: string) =>
      guest.spawn({ argv: ["sh", "-c", script], env: {}, detached: true, stdin: false });
    const ready = (file: string) =>
      eventually(file, () =>
        guest.stat(file).then(
          () => true,
          () => false,
        ),
      );
    await spawn("trap 'echo bye >/opt/bye; exit 0' TERM; echo >/opt/ready1; while :; do sleep 0.05; done");
    await ready("/opt/ready1");
    await within(40_000, "stop", runtime.stop(id, { timeoutMs: 30_000 }));
    await runtime.start(id);
    expect((await shellInside(guest, "cat /opt/bye")).stdout).toBe("bye\n");
    await spawn("trap '' TERM; echo >/opt/ready2; while :; do sleep 0.05; done");
    await ready("/opt/ready2");
    await within(20_000, "stop", runtime.stop(id, { timeoutMs: 300 }));
    expect(await runtime.inspect(id)).toEqual({ id, state: "stopped" });
    await runtime.start(id);
    expect(await commandLinesInside(guest)).not.toContainEqual(expect.stringContaining("trap"));
  });

  test("removes a running sandbox", async () => {
    const { runtime, box } = fixture();
    const { id, pid } = await box();
    await runtime.remove(id);
    expect(processLives(pid)).toBe(false);
    expect(await runtime.inspect(id)).toBeUndefined();
  });

  test("makes and removes several side by side", async () => {
    const { runtime, box } = fixture();
    const boxes = await Promise.all([box(), box(), box(), box()]);
    const names = await Promise.all(
      boxes.map(async ({ guest }) => (await shellInside(guest, "uname -n")).stdout.trim()),
    );
    expect(names).toEqual(boxes.map(({ id }) => id));
    const listed = (await runtime.list()).map((sandbox) => sandbox.id);
    for (const { id } of boxes) expect(listed).toContain(id);
    await Promise.all(boxes.map(({ id }) => runtime.remove(id)));
    expect(await runtime.list()).toEqual([]);
  });

  test("leaves nothing of a create that fails", async () => {
    const { runtime, spec } = fixture();
    const wanted = await spec();
    const missing = { ...wanted.image, id: "dir:/nonexistent/warren-image" };
    await expect(runtime.create({ ...wanted, image: missing })).rejects.toThrow();
    expect(await runtime.inspect(wanted.id)).toBeUndefined();
    await expectFailure(runtime.create(wanted, { signal: AbortSignal.abort() }), "cancelled");
    expect(await runtime.inspect(wanted.id)).toBeUndefined();
    expect(await runtime.list()).toEqual([]);
    await runtime.create(wanted);
  });

  test("leaves a sandbox whole whose start fails", async () => {
    const { runtime, spec, guest } = fixture();
    const wanted = await spec();
    await runtime.create(wanted);
    await expectFailure(runtime.start(wanted.id, { signal: AbortSignal.abort() }), "cancelled");
    expect((await runtime.inspect(wanted.id))?.state).toMatch(/^(created|stopped)$/);
    await runtime.start(wanted.id);
    await guest(wanted.id).hello();
  });

  test("knows nothing of sandboxes that don't exist", async () => {
    const { runtime } = fixture();
    const id = newId();
    expect(await runtime.inspect(id)).toBeUndefined();
    await expect(runtime.start(id)).rejects.toThrow();
    await expectFailure(runtime.connect(id), "guest_failed", "sandbox_not_found");
    expect(runtime.oomKills(id) ?? 0).toBe(0);
  });
}

function testTruth(
  { test, fixture }: RuntimeContext,
  leftovers: (id: string) => Promise<string[]> | string[],
): void {
  test("sees that a sandbox's first process was killed", async () => {
    const { runtime, box } = fixture();
    const { id, pid, guest } = await box();
    await guest.writeFile("/opt/kept", Buffer.from("x"), { parents: true });
    process.kill(pid, "SIGKILL");
    await eventually("the end", async () => (await runtime.inspect(id))?.state === "stopped");
    expect((await runtime.list()).find((sandbox) => sandbox.id === id)?.state).toBe("stopped");
    await expectFailure(runtime.connect(id), "guest_failed");
    await runtime.stop(id, { timeoutMs: 1000 });
    await runtime.start(id);
    expect(await guest.stat("/opt/kept")).toMatchObject({ size: 1 });
  });

  test("leaves nothing on the host after remove", async () => {
    const { runtime, box } = fixture();
    const { id, pid, guest } = await box();
    await guest.spawn({ argv: ["sleep", "600"], env: {}, detached: true });
    await shellInside(guest, "mkdir -p /opt/deep/er && chmod 000 /opt/deep/er && echo x > /opt/file");
    await runtime.remove(id);
    expect(processLives(pid)).toBe(false);
    expect(await leftovers(id)).toEqual([]);
    expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(id);
    await eventually("all helpers to end", () => hostCommandLines().every((line) => !line.includes(id)));
  });

  test("tells what a sandbox uses", async () => {
    const { runtime, box } = fixture();
    const { id, guest } = await box();
    const before = await runtime.stats(id);
    expect(before.pid_count).toBeGreaterThanOrEqual(1);
    expect(before.memory_usage).toBeGreaterThan(0);
    // Where the kernel counts in ticks, a command may have run between two of them.
    await eventually("processor time", async () => {
      await shellInside(guest, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done");
      return (await runtime.stats(id)).cpuTotalNs > before.cpuTotalNs;
    });
    await runtime.stop(id, { timeoutMs: 0 });
    await expectFailure(runtime.stats(id), "sandbox_wrong_state");
  });
}

function testImages({ test, fixture, unless }: RuntimeContext): void {
  test("has no image where there is none", async () => {
    const path = `/nonexistent/${randomBytes(4).toString("hex")}`;
    const error = await expectFailure(fixture().runtime.images.ensure(path), "image_not_found");
    expect(error.hint).toBeTruthy();
  });

  test(
    "runs a root filesystem directory, and never changes it",
    async () => {
      const { runtime, box } = fixture();
      const dir = mkdtempSync(join(tmpdir(), "warren-image-"));
      try {
        mkdirSync(join(dir, "bin"));
        copyFileSync("/bin/busybox", join(dir, "bin/busybox"));
        const image = await runtime.images.ensure(dir);
        expect(image.reference).toBe(dir);
        const [one, two] = [await box({ image }), await box({ image })];
        const busybox = (script: string) => ({ argv: ["/bin/busybox", "sh", "-c", script], env: {} });
        const session = await one.guest.spawn(busybox("echo mine > /note; /bin/busybox rm /bin/busybox"));
        for await (const _ of session.output);
        expect((await session.exit).exit_code).toBe(0);
        expect(await one.guest.stat("/note")).toMatchObject({ size: 5 });
        await expectFailure(two.guest.stat("/note"), "file_not_found");
        expect(await two.guest.stat("/bin/busybox")).toMatchObject({ type: "file" });
        expect(existsSync(join(dir, "bin/busybox"))).toBe(true);
        expect(existsSync(join(dir, "note"))).toBe(false);
        await Promise.all([one, two].map(({ id }) => runtime.remove(id)));
      } finally {
        rmSync(dir, { recursive: true });
      }
    },
    { unless: unless("directory") },
  );
}

/** Command lines of all processes of the host. */
function hostCommandLines(): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8");
      } catch {
        return "";
      }
    });
}
