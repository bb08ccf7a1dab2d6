import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createGuestClient } from "../../../src/guest/client.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import type { Box } from "../common/support/boxes.ts";
import { testSecurityInside } from "../support/security.ts";
import { openPodmanRig, type PodmanRig } from "./support/open.ts";

let rig: PodmanRig;
beforeAll(async () => {
  // Podman's command line hands these on.
  process.env.HTTP_PROXY = "http://user:secret@proxy.example";
  rig = await openPodmanRig();
});
afterAll(async () => {
  delete process.env.HTTP_PROXY;
  await rig.close();
});

describe("security of a sandbox in Podman", () => {
  let box: Box;
  beforeAll(async () => {
    box = await rig.box({ limits: { memoryBytes: 256 << 20, cpuNano: 0, pids: 100 } });
  });
  testSecurityInside(() => box, "dev");

  it("sees nothing of the host's names, environment and processes", async () => {
    const other = await rig.box({ cmd: ["sh", "-c", "env >/opt/env; sleep 600"], env: { A: "1" } });
    await expect.poll(() => other.sh("cat /opt/env 2>/dev/null || :")).toContain("A=1");
    expect(await other.sh("cat /opt/env")).not.toMatch(/secret|proxy|CONTAINERS_/i);
    await rig.runtime.remove(other.id);
    expect(await box.sh("cat /etc/hosts")).toBe(
      `127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t${box.id}\n`,
    );
    expect(await box.sh("cat /proc/mounts | grep -v overlay")).not.toContain(rig.stateDir);
    expect(await box.sh("ls /sys/class/net")).toBe("lo\n");
  });

  it("mounts what is bound without set-user-id and devices, whatever its path is called", async () => {
    const dir = mkdtempSync(join(tmpdir(), "w,mount:readonly=false "));
    try {
      const bound = await rig.box({
        mounts: [{ type: "bind", source: dir, target: "/a,b:c", readonly: true }],
      });
      const mounted = (await bound.sh("cat /proc/mounts"))
        .split("\n")
        .find((line) => line.includes("/a,b:c"));
      expect(mounted?.split(" ")[3]?.split(",")).toEqual(expect.arrayContaining(["ro", "nosuid", "nodev"]));
      expect(await bound.sh("touch '/a,b:c/x' 2>/dev/null || echo refused")).toBe("refused\n");
      await rig.runtime.remove(bound.id);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it("refuses to mount read-only what would stay writable below", async () => {
    const dir = mkdtempSync(join(tmpdir(), "wmounts "));
    mkdirSync(join(dir, "below"));
    execFileSync("mount", ["-t", "tmpfs", "tmpfs", join(dir, "below")]);
    try {
      const mounts = (readonly: boolean) => [
        { type: "bind" as const, source: dir, target: "/data", readonly },
      ];
      const error = await expectFailure(rig.box({ mounts: mounts(true) }), "unsupported");
      expect(error.message).toContain(join(dir, "below"));
      expect((await rig.runtime.list()).map(({ id }) => id)).toEqual([box.id]);
      const writable = await rig.box({ mounts: mounts(false) });
      await writable.sh("echo x >/data/below/x");
      await rig.runtime.remove(writable.id);
    } finally {
      execFileSync("umount", [join(dir, "below")]);
      rmSync(dir, { recursive: true });
    }
  });

  it("has the limits in its cgroup that it was given", async () => {
    const cgroup = readFileSync(`/proc/${box.pid}/cgroup`, "utf8");
    const path = /^\d+:(?:[\w,]*memory[\w,]*)?:(.*libpod.*)$/m.exec(cgroup)?.[1];
    const v1 = `/sys/fs/cgroup/memory${path}/memory.limit_in_bytes`;
    const file = existsSync(v1) ? v1 : `/sys/fs/cgroup${path}/memory.max`;
    expect(readFileSync(file, "utf8").trim()).toBe(String(256 << 20));
  });
});

describe("a sandbox that makes its guest's socket something else", () => {
  /** As an engine that has not yet talked to the guest: the socket is where the sandbox can reach it. */
  const silence = async (box: Box): Promise<void> => {
    const sandboxes = join(rig.stateDir, "podman/sandboxes", box.id);
    rmSync(join(sandboxes, "guest.sock"));
  };
  const inRun = "cd /.warren/run && rm -rf guest.sock";

  it("can't have a link to another socket of the host followed", async () => {
    const dir = mkdtempSync(join(tmpdir(), "wtarget-"));
    const target = join(dir, "s");
    let reached = 0;
    const server = createServer((socket) => {
      reached++;
      socket.destroy();
    });
    await new Promise<void>((resolve) => server.listen(target, resolve));
    const box = await rig.box();
    try {
      await box.sh(`${inRun}; ln -s ${target} guest.sock`);
      await silence(box);
      await expectFailure(rig.runtime.connect(box.id), "guest_failed");
      expect(reached).toBe(0);
      // Without the guard: the same name, followed.
      const followed = join(rig.stateDir, "podman/sandboxes", box.id, "run/guest.sock");
      await new Promise<void>((resolve) => connect(followed).once("close", () => resolve()));
      expect(reached).toBe(1);
    } finally {
      await rig.runtime.remove(box.id);
      server.close();
      rmSync(dir, { recursive: true });
    }
  });

  it.each([
    ["a FIFO", "mkfifo guest.sock"],
    ["a directory", "mkdir -p guest.sock/x"],
    ["a file", "echo x >guest.sock"],
    ["nothing", ":"],
  ])("by %s is told to be gone at once, and can be removed", async (_, make) => {
    const box = await rig.box();
    await box.sh(`${inRun}; ${make}`);
    await silence(box);
    await expectFailure(rig.runtime.connect(box.id), "guest_failed");
    await rig.runtime.stop(box.id, { timeoutMs: 2000 });
    // And started again: what it left is cleared away.
    await rig.runtime.start(box.id);
    expect(await box.sh("echo fine")).toBe("fine\n");
    await rig.runtime.remove(box.id);
  });

  it("can't do so once the engine has talked to it", async () => {
    const box = await rig.box();
    await box.sh(`${inRun}; mkfifo guest.sock`);
    expect(await box.sh("echo still the guest")).toBe("still the guest\n");
    await rig.runtime.remove(box.id);
  });

  it("that never answers costs a bounded time", async () => {
    const box = await rig.box();
    const listen =
      'use IO::Socket::UNIX; unlink "/.warren/run/guest.sock"; my $s = IO::Socket::UNIX->new(Type => SOCK_STREAM, ' +
      'Local => "/.warren/run/guest.sock", Listen => 5) or die; chmod 0777, "/.warren/run/guest.sock"; $| = 1; print "up\\n"; sleep 600';
    const session = await box.guest.spawn({ argv: ["perl", "-e", listen], env: {} });
    await using _ = session;
    for await (const { data } of session.output) if (Buffer.from(data).toString().includes("up")) break;
    await silence(box);
    const impatient = createGuestClient(() => rig.runtime.connect(box.id), { answerMs: 300 });
    await expectFailure(impatient.hello(), "guest_failed", "deadline_exceeded");
    await rig.runtime.remove(box.id);
  });
});

describe("what others do to containers of ours", () => {
  it("is noticed: a removal, a stop, a pause", async () => {
    const [removed, stopped, paused] = [await rig.box(), await rig.box(), await rig.box()];
    const podman = rig.storage.podman;
    podman("rm", "--force", "--time=0", rig.container(removed.id));
    podman("kill", rig.container(stopped.id));
    podman("pause", rig.container(paused.id));
    expect((await rig.runtime.inspect(removed.id))?.state).toBe("created");
    await expectFailure(rig.runtime.start(removed.id), "sandbox_not_found", "runtime_failed");
    await rig.runtime.remove(removed.id);
    expect(await rig.runtime.inspect(removed.id)).toBeUndefined();
    await expect.poll(async () => (await rig.runtime.inspect(stopped.id))?.state).toBe("stopped");
    expect(await rig.runtime.inspect(paused.id)).toMatchObject({ state: "paused", pid: paused.pid });
    await rig.runtime.stop(paused.id, { timeoutMs: 1000 });
    expect((await rig.runtime.inspect(paused.id))?.state).toBe("stopped");
    for (const { id } of [stopped, paused]) await rig.runtime.remove(id);
  });

  it("does not touch those of others", async () => {
    const name = `other-${process.pid}`;
    rig.storage.podman("create", "--name", name, "--network=none", "localhost/warren-test:1", "true");
    expect(await rig.runtime.list()).not.toContainEqual(expect.objectContaining({ id: name }));
    const next = await rig.reopen();
    expect(await next.list()).toBeDefined();
    expect(rig.storage.podman("ps", "--all", "--format={{.Names}}")).toContain(name);
    rig.storage.podman("rm", name);
  });

  it("tells how a main command ended, after its engine has gone too", async () => {
    const { id } = await rig.box({ cmd: ["sh", "-c", "exit 7"] });
    await rig.runtime.stop(id, { timeoutMs: 2000 });
    expect(await rig.runtime.inspect(id)).toEqual({ id, state: "stopped", exitCode: 7 });
    const next = await rig.reopen();
    expect(await next.inspect(id)).toEqual({ id, state: "stopped", exitCode: 7 });
    const killed = await rig.box({ cmd: ["sleep", "600"] });
    await next.stop(killed.id, { timeoutMs: 0 });
    expect(await next.inspect(killed.id)).toEqual({ id: killed.id, state: "stopped", exitCode: 137 });
    for (const box of [id, killed.id]) await next.remove(box);
  });

  it("sweeps what an engine that was killed looked into images with", async () => {
    const name = `warren-${rig.ownerId}-look-x`;
    rig.storage.podman(
      "create",
      "--name",
      name,
      "--label",
      `warren.owner=${rig.ownerId}`,
      "localhost/warren-test:1",
      "true",
    );
    await rig.reopen();
    expect(rig.storage.podman("ps", "--all", "--format={{.Names}}")).not.toContain(name);
  });
});
