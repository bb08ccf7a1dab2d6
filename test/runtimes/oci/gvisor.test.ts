import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { silentLogger } from "../../../src/lib/log.ts";
import { openOciRuntime } from "../../../src/runtimes/oci/runtime.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { noLimits, runInside, shellInside } from "../../../src/testing/guest-tools.ts";
import { eventually } from "../../../src/testing/wait.ts";
import { noGvisor } from "./support/gvisor.ts";
import { openTestRuntime, processesIn, type TestRuntime } from "./support/open.ts";

const MIB = 1024 ** 2;
const needsRunsc = noGvisor === undefined ? "" : ` [not possible here: ${noGvisor}]`;

describe.skipIf(noGvisor !== undefined)(`a sandbox with gVisor${needsRunsc}`, () => {
  let test: TestRuntime;
  beforeAll(async () => {
    test = await openTestRuntime("runsc");
  });
  afterAll(async () => {
    await test.close();
  });
  afterEach(async () => {
    for (const { id } of await test.runtime.list()) await test.runtime.remove(id);
  });

  /** Host pids of all that belongs to a sandbox: gVisor's kernel, its file server, its processes' address spaces, the relay. */
  const pidsOf = (id: string) =>
    processesIn(`/warren-${test.ownerId}/${id}`).map((line) => Number(line.split(" ")[1]));
  const status = (pid: number, name: string) =>
    new RegExp(`^${name}:\\s+(.*)$`, "m").exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  const relayOf = (id: string) => pidsOf(id).find((pid) => status(pid, "Name") === "warren-relay");

  it("talks to a kernel that is not the host's, and a container to the host's", async () => {
    const host = readFileSync("/proc/version", "utf8");
    const [boxed, contained] = [await test.box(), await test.box({ isolation: "container" })];
    expect(await boxed.sh("dmesg")).toContain("gVisor");
    expect(await boxed.sh("cat /proc/version")).not.toBe(host);
    expect(await contained.sh("cat /proc/version")).toBe(host);
  });

  it("answers itself what a container may not ask of the host's kernel", async () => {
    const ask = ["unshare", "--user", "sh", "-c", "echo asked; exec sleep 600"];
    const contained = await test.box({ isolation: "container" });
    expect(await runInside(contained.guest, ask)).toMatchObject({ stdout: "" });
    const boxed = await test.box();
    const namespaces = () => new Set(pidsOf(boxed.id).map((pid) => readlinkSync(`/proc/${pid}/ns/user`)));
    const before = namespaces();
    await using session = await boxed.guest.spawn({ argv: ask, env: {} });
    session.exit.catch(() => {});
    for await (const { data } of session.output) {
      if (Buffer.from(data).toString().includes("asked")) break;
    }
    // gVisor has made it a user namespace, and the host none.
    const inside = await boxed.sh("readlink /proc/[0-9]*/ns/user | sort -u | wc -l");
    expect(Number(inside)).toBeGreaterThan(1);
    expect(namespaces()).toEqual(before);
  });

  it("is to the host some unprivileged processes with a filter, of ids that are its own", async () => {
    const { id, pid } = await test.box();
    const members = pidsOf(id);
    expect(members).toContain(pid);
    const first = Number(status(pid, "Uid")?.split("\t")[0]);
    expect(first).toBeGreaterThan(65_536);
    for (const member of members) {
      for (const uid of status(member, "Uid")?.split("\t") ?? []) {
        expect(Number(uid), `process ${member}`).toBeGreaterThanOrEqual(first);
        expect(Number(uid), `process ${member}`).toBeLessThan(first + 65_536);
      }
      expect(status(member, "NoNewPrivs"), `process ${member}`).toBe("1");
    }
    expect(status(pid, "Seccomp")).toBe("2");
    expect(status(relayOf(id) as number, "CapEff")).toBe("0000000000000000");
  });

  it("gives nothing inside a way to the socket that controls it", async () => {
    const { sh } = await test.box();
    expect(await sh("find /run /tmp /var/tmp /.warren /dev -type s")).toBe("");
    expect(await sh("awk 'NR > 1 && NF > 7' /proc/net/unix")).toBe("");
    // PID 1 has it as a descriptor: root can see that in /proc, and can't open it.
    const opened = await sh(`perl -e '
      for my $fd (glob "/proc/1/fd/*") {
        next unless -S $fd;
        print open(my $h, "+<", $fd) ? "opened" : "refused", "\\n";
      }' | sort -u`);
    expect(opened).toBe("refused\n");
    // PTRACE_ATTACH, of PID 1 and of a child.
    expect(await sh("perl -e 'print syscall(101, 16, 1, 0, 0)'")).toBe("-1");
    const child =
      "my $p = fork // die; if (!$p) { sleep 600; exit } print syscall(101, 16, $p, 0, 0); kill 9, $p";
    expect(await sh(`perl -e '${child}'`)).toBe("0");
  });

  it("ends whole when what hands connections over is gone", async () => {
    const { id, guest } = await test.box();
    await guest.spawn({ argv: ["sleep", "600"], env: {}, detached: true });
    process.kill(relayOf(id) as number, "SIGKILL");
    await eventually("the end", async () => (await test.runtime.inspect(id))?.state === "stopped");
    await test.runtime.stop(id, { timeoutMs: 0 });
    expect(pidsOf(id)).toEqual([]);
    await test.runtime.start(id);
    expect(await guest.hello()).toMatchObject({ protocol: 1 });
  });

  it("goes on without an engine, is found by the next, and leaves nothing on the host", async () => {
    const { id, pid, guest } = await test.box({ limits: { ...noLimits, memoryBytes: 256 * MIB } });
    await guest.writeFile("/opt/kept", Buffer.from("x"), { parents: true });
    await test.runtime.close();
    await test.reopen();
    expect(await test.runtime.list()).toEqual([{ id, state: "running", pid }]);
    expect(await guest.stat("/opt/kept")).toMatchObject({ size: 1 });
    const other = await test.box();
    expect(status(other.pid, "Uid")).not.toBe(status(pid, "Uid"));
    process.kill(pid, "SIGKILL");
    await eventually("the end", async () => (await test.runtime.inspect(id))?.state === "stopped");
    await expectFailure(test.runtime.connect(id), "guest_failed");
    await test.runtime.remove(id);
    expect(test.leftovers(id)).toEqual([]);
    // Where runsc keeps its state when it isn't told otherwise, and where it puts sockets whose paths are long.
    for (const dir of ["/run", "/tmp", "/var/tmp", test.stateDir, join(test.stateDir, "oci", "run")]) {
      expect(readdirSync(dir).filter((name) => name.startsWith("runsc"))).toEqual([]);
    }
    expect(existsSync(join("/mnt", "run"))).toBe(false);
  });

  it("ends alone when it wants more memory or more threads than it may have, and says why", async () => {
    const hungry = await test.box({ limits: { ...noLimits, memoryBytes: 64 * MIB } });
    const forking = await test.box({ limits: { ...noLimits, pids: 64 } });
    const other = await test.box();
    expect(test.runtime.oomKills(hungry.id)).toBe(0);
    const take = shellInside(hungry.guest, "exec perl -e '$x = \"x\" x (200 << 20); print length $x'");
    await expectFailure(take, "guest_failed");
    expect(test.runtime.oomKills(hungry.id)).toBeGreaterThan(0);
    const fork = shellInside(forking.guest, "for i in $(seq 300); do sleep 600 & done; echo all");
    await expectFailure(fork, "guest_failed");
    for (const { id } of [hungry, forking]) {
      await eventually("its end", async () => (await test.runtime.inspect(id))?.state === "stopped");
    }
    expect(await other.sh("echo fine")).toBe("fine\n");
    await test.runtime.stop(hungry.id, { timeoutMs: 0 });
    await test.runtime.start(hungry.id);
    expect(await hungry.sh("echo again")).toBe("again\n");
  });

  it("is what the probe says", async () => {
    const { findings } = await test.runtime.probe();
    const finding = findings.find(({ message }) => message.startsWith("runsc"));
    expect(finding).toMatchObject({ level: "ok", message: expect.stringMatching(/(systrap|ptrace)$/) });
  });
});

describe("a runsc that can't end a command's whole tree", () => {
  const path = process.env.PATH;
  let bin = "";
  let stateDir = "";
  beforeEach(() => {
    bin = mkdtempSync(join(tmpdir(), "woci-bin-"));
    stateDir = mkdtempSync(join(tmpdir(), "woci-"));
    process.env.PATH = `${bin}:${path}`;
    // What Debian 12's own says.
    const script = '#!/bin/sh\necho "runsc version 0.0~20221219.0"\necho "spec: 1.0.2-dev"\n';
    writeFileSync(join(bin, "runsc"), script, { mode: 0o755 });
  });
  afterEach(() => {
    process.env.PATH = path;
    for (const dir of [bin, stateDir]) rmSync(dir, { recursive: true });
  });

  it("is refused, with the command that installs a newer one, and is no error of the runtime", async () => {
    const runtime = await openOciRuntime({ stateDir, ownerId: "oldrunsc", log: silentLogger });
    try {
      const report = await runtime.probe();
      expect(report.usable).toBe(true);
      expect(report.findings.find(({ message }) => message.includes("runsc"))).toEqual({
        level: "warning",
        message:
          "runsc 0.0~20221219.0 is too old: it must be of 2023-07-17 or later: isolation gvisor is refused",
        fix: "scripts/install-runsc.sh",
      });
      const image = await runtime.images.ensure("host");
      const spec = {
        ...{ id: "old", image, env: {}, workdir: "/", hostname: "old", labels: {}, network: "none" as const },
        ...{ isolation: "gvisor" as const, readonlyRoot: false, tmpfs: [], mounts: [], limits: noLimits },
      };
      const error = await expectFailure(runtime.create(spec), "runtime_unavailable");
      expect(error.message).toContain("too old");
      expect(error.hint).toBe("scripts/install-runsc.sh");
      expect(await runtime.list()).toEqual([]);
    } finally {
      await runtime.close();
    }
  });
});
