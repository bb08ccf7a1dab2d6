import { spawn } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { createGuestClient } from "../../../src/guest/client.ts";
import { ociPrograms } from "../../../src/runtimes/oci/programs.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { shellInside } from "../../../src/testing/guest-tools.ts";
import { eventually } from "../../../src/testing/wait.ts";
import { shortId } from "../common/support/boxes.ts";
import { mountsBelow, openTestRuntime, type TestRuntime } from "./support/open.ts";
import { busyboxRoot } from "./support/rootfs.ts";

describe.each(ociPrograms)("lifecycle, with %s", (program) => {
  let made: TestRuntime;
  beforeAll(async () => {
    made = await openTestRuntime(program);
  });
  afterEach(async () => {
    for (const { id } of await made.runtime.list()) await made.runtime.remove(id);
  });
  afterAll(() => made.close());

  it("leaves sandboxes running over a close, and finds them at the next open", async () => {
    const box = await made.box();
    await made.runtime.close();
    const runtime = await made.reopen();
    expect(await runtime.list()).toEqual([{ id: box.id, state: "running", pid: box.pid }]);
    const guest = createGuestClient(() => runtime.connect(box.id));
    expect((await shellInside(guest, "echo again")).stdout).toBe("again\n");
    const other = await made.box();
    expect(await mappedBase(other.pid)).not.toBe(await mappedBase(box.pid));
    await runtime.remove(box.id);
    expect(made.leftovers(box.id)).toEqual([]);
  });

  it("keeps sandboxes running when the launcher is killed, and goes on with a new one", async () => {
    const box = await made.box();
    process.kill(launcherOf(process.pid), "SIGKILL");
    await eventually("a new launcher", async () => {
      const next = await made.box().catch(() => undefined);
      return next !== undefined;
    });
    expect(await box.sh("echo alive")).toBe("alive\n");
    await made.runtime.stop(box.id, { timeoutMs: 2000 });
    expect(await made.runtime.inspect(box.id)).toEqual({ id: box.id, state: "stopped" });
  });

  it("starts a sandbox of before there was a choice of isolation as a container", async () => {
    const box = await made.box();
    await made.runtime.stop(box.id, { timeoutMs: 0 });
    const file = join(made.stateDir, "oci", "sandboxes", box.id, "spec.json");
    const stored = JSON.parse(readFileSync(file, "utf8"));
    delete stored.spec.isolation;
    writeFileSync(file, JSON.stringify(stored));
    await made.runtime.start(box.id);
    expect(await box.sh("cat /proc/version")).toBe(readFileSync("/proc/version", "utf8"));
  });

  it("works below a path that is longer than a Unix socket's may be", async () => {
    const deep = await openTestRuntime(program, join("a-long-name".repeat(8), "and-another".repeat(8)));
    try {
      expect(deep.stateDir.length).toBeGreaterThan(150);
      const box = await deep.box();
      expect(await box.sh("echo deep")).toBe("deep\n");
      await deep.runtime.stop(box.id, { timeoutMs: 0 });
    } finally {
      await deep.close();
    }
  });

  it("gives each sandbox ids of its own, and writes ids from 0 to the disk", async () => {
    const [one, two] = await Promise.all([made.box(), made.box()]);
    const [a, b] = [await mappedBase(one.pid), await mappedBase(two.pid)];
    expect(Math.abs(a - b)).toBeGreaterThanOrEqual(65_536);
    await one.sh("echo x > /root/file; chown 1000:1000 /root/file; echo y > /root/own; mkdir /var/lib/made");
    const upper = join(made.stateDir, "oci", "sandboxes", one.id, "fs", "upper");
    expect(statSync(join(upper, "root/file"))).toMatchObject({ uid: 1000, gid: 1000 });
    expect(statSync(join(upper, "root/own"))).toMatchObject({ uid: 0, gid: 0 });
    expect(statSync(join(upper, "var/lib/made"))).toMatchObject({ uid: 0, gid: 0 });
  });

  it("writes nothing to the sandbox's layer by itself", async () => {
    const box = await made.box();
    expect(readdirSync(join(made.stateDir, "oci", "sandboxes", box.id, "fs", "upper"))).toEqual([]);
  });

  it("shows nothing of a sandbox in the host's mount table, and lets nobody else near it", async () => {
    const box = await made.box();
    expect(mountsBelow(made.stateDir)).toEqual([]);
    const dir = join(made.stateDir, "oci");
    expect(statSync(dir).mode & 0o777).toBe(0o700);
    expect(statSync(join(dir, "sandboxes", box.id)).mode & 0o777).toBe(0o700);
    expect(statSync(join(dir, "sandboxes", box.id, "guest.sock")).mode & 0o777).toBe(0o600);
  });

  it("lists and removes what was only half made", async () => {
    const spec = await made.spec();
    mkdirSync(join(made.stateDir, "oci", "sandboxes", `.new-${spec.id}`));
    expect(await made.runtime.list()).toEqual([{ id: spec.id, state: "created" }]);
    await made.runtime.remove(spec.id);
    expect(made.leftovers(spec.id)).toEqual([]);
    mkdirSync(join(made.stateDir, "oci", "sandboxes", `.new-${spec.id}`));
    await made.runtime.create(spec);
    await made.runtime.start(spec.id);
    await expectFailure(made.runtime.create(spec), "sandbox_wrong_state");
  });

  it("lists and removes a container and processes that lost their directory", async () => {
    const id = shortId();
    mkdirSync(join(made.stateDir, "oci", "run", program, id), { recursive: true });
    writeFileSync(join(made.stateDir, "oci", "run", program, id, "status"), "{}");
    const group = join(cgroupMount("pids"), `warren-${made.ownerId}`, id);
    mkdirSync(group, { recursive: true });
    const sleeper = spawn("sleep", ["600"], { stdio: "ignore" });
    const ended = new Promise((resolve) => sleeper.once("exit", (_code, signal) => resolve(signal)));
    writeFileSync(join(group, "cgroup.procs"), String(sleeper.pid));
    expect(await made.runtime.list()).toEqual([{ id, state: "running" }]);
    await made.runtime.remove(id);
    expect(await ended).toBe("SIGKILL");
    expect(made.leftovers(id)).toEqual([]);
    expect(await made.runtime.list()).toEqual([]);
  });

  it("removes everything of a sandbox that was killed behind its back", async () => {
    const box = await made.box();
    process.kill(box.pid, "SIGKILL");
    await eventually("the end", async () => (await made.runtime.inspect(box.id))?.state === "stopped");
    expect(made.runtime.oomKills(box.id)).toBe(0);
    await made.runtime.remove(box.id);
    expect(made.leftovers(box.id)).toEqual([]);
  });

  it("leaves only the directory of a sandbox whose image is gone at its start", async () => {
    const root = busyboxRoot();
    const spec = await made.spec({ image: await made.runtime.images.ensure(root.path) });
    await made.runtime.create(spec);
    root[Symbol.dispose]();
    await expectFailure(made.runtime.start(spec.id), "runtime_failed");
    expect(made.leftovers(spec.id)).toEqual([join(made.stateDir, "oci", "sandboxes", spec.id)]);
    expect((await made.runtime.inspect(spec.id))?.state).toBe("stopped");
  });

  it("leaves only the directory of a sandbox whose guest doesn't come up", async () => {
    const shared = join(made.stateDir, "oci", "shared");
    const guest = readdirSync(shared).find((name) => name.startsWith("guest-")) as string;
    const program_ = join(shared, guest, "guest");
    const kept = join(made.stateDir, "kept");
    copyFileSync(program_, kept);
    rmSync(program_);
    try {
      const missing = await made.spec();
      await made.runtime.create(missing);
      await expectFailure(made.runtime.start(missing.id), "runtime_failed");
      copyFileSync("/bin/true", program_); // ends at once, without a word
      const silent = await made.spec();
      await made.runtime.create(silent);
      await expectFailure(made.runtime.start(silent.id), "guest_failed", "runtime_failed");
      for (const { id } of [missing, silent]) {
        expect(made.leftovers(id)).toEqual([join(made.stateDir, "oci", "sandboxes", id)]);
      }
      rmSync(program_);
      copyFileSync(kept, program_);
      await made.runtime.start(silent.id);
      expect((await made.runtime.inspect(silent.id))?.state).toBe("running");
    } finally {
      if (!existsSync(program_)) copyFileSync(kept, program_);
    }
  });

  it("starts a sandbox whose main command is missing, and tells so", async () => {
    const box = await made.box({ cmd: ["/nonexistent/program"] });
    expect(await box.guest.waitMain().exit).toMatchObject({ exit_code: 127 });
    await made.runtime.remove(box.id);
    expect(made.leftovers(box.id)).toEqual([]);
  });

  it("deletes at its open what an engine left that was killed", async () => {
    const oci = join(made.stateDir, "oci");
    const left = [
      "trash/abc/deep",
      "images/oci/.new-x/y",
      "images/tar/.new-x",
      "sandboxes/probe-left",
      "shared/guest-old",
    ];
    for (const path of left) mkdirSync(join(oci, path), { recursive: true });
    await made.runtime.close();
    await made.reopen();
    expect(await made.runtime.list()).toEqual([]);
    for (const path of left.slice(1)) expect(existsSync(join(oci, path)), path).toBe(false);
    await eventually("an empty trash", () => readdirSync(join(oci, "trash")).length === 0);
  });

  it("refuses what it can't do, before anything is made", async () => {
    const tmpfs = (path: string) => [{ path, sizeBytes: 1 << 20, readonly: false, exec: true, mode: 0o755 }];
    const refused = [
      { network: "open" as const, isolation: "gvisor" as const, code: "unsupported" },
      { id: "../up", code: "invalid_request" },
      { id: "x".repeat(65), code: "invalid_request" },
      { hostname: "a b", code: "invalid_request" },
      { env: { "A=B": "1" }, code: "invalid_request" },
      { tmpfs: tmpfs("/proc"), code: "invalid_request" },
      { tmpfs: tmpfs("/dev/x"), code: "invalid_request" },
      { tmpfs: tmpfs("/a/../b"), code: "invalid_request" },
      { tmpfs: tmpfs("relative"), code: "invalid_request" },
      { tmpfs: [...tmpfs("/a"), ...tmpfs("/a")], code: "invalid_request" },
      { image: { id: "dir:/nonexistent", reference: "/nonexistent", env: {} }, code: "image_not_found" },
      { image: { id: "sha256:../..", reference: "x", env: {} }, code: "image_not_found" },
    ];
    for (const { code, ...patch } of refused) {
      await expectFailure(made.runtime.create(await made.spec(patch)), code);
    }
    expect(await made.runtime.list()).toEqual([]);
  });

  it("mounts tmpfs below one another and below the working directory", async () => {
    const mount = (path: string) => ({ path, sizeBytes: 1 << 20, readonly: false, exec: true, mode: 0o755 });
    const box = await made.box({
      tmpfs: [mount("/box/inner"), mount("/box")],
      workdir: "/box/inner/deep/dir",
      readonlyRoot: true,
    });
    expect(await box.sh("stat -c %F /box/inner/deep/dir")).toBe("directory\n");
    expect(await box.sh("grep -c ' /box' /proc/mounts")).toBe("2\n");
  });
});

/** First host id of a process's user namespace. */
async function mappedBase(pid: number): Promise<number> {
  return Number(readFileSync(`/proc/${pid}/uid_map`, "utf8").trim().split(/\s+/)[1]);
}

/** The launcher among a process's children. */
function launcherOf(parent: number): number {
  const children = readFileSync(`/proc/${parent}/task/${parent}/children`, "utf8").trim().split(" ");
  const found = children.filter((pid) =>
    readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("warren-launcher\0serve"),
  );
  expect(found).toHaveLength(1);
  return Number(found[0]);
}

function cgroupMount(controller: string): string {
  const v1 = join("/sys/fs/cgroup", controller);
  return existsSync(v1) ? v1 : "/sys/fs/cgroup";
}
