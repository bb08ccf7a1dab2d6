import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { checkLimits, createCgroups } from "../../../src/runtimes/common/cgroup.ts";
import { GUEST_PIDS, guestMemoryBytes } from "../../../src/runtimes/common/payload-groups.ts";
import { ociPrograms } from "../../../src/runtimes/oci/programs.ts";
import { noLimits, shellInside } from "../../../src/testing/guest-tools.ts";
import { eventually } from "../../../src/testing/wait.ts";
import { openTestRuntime, type TestRuntime } from "./support/open.ts";

const MIB = 1 << 20;
const isV1 = existsSync("/sys/fs/cgroup/memory");

describe.each(ociPrograms)("limits, with %s", (program) => {
  let made: TestRuntime;
  beforeAll(async () => {
    made = await openTestRuntime(program);
  });
  afterAll(() => made.close());

  const group = (controller: string, id: string) =>
    join("/sys/fs/cgroup", isV1 ? controller : "", `warren-${made.ownerId}`, id);
  /** A file of a sandbox's cgroup, or of one below it: by v1's name, whose first word is the controller, and v2's. */
  const read = (id: string, v1: string, v2: string, below = "") =>
    readFileSync(join(group(v1.split(".")[0] as string, id), below, isV1 ? v1 : v2), "utf8").trim();
  const limited = isV1 ? "limited" : "payload/limited";

  it("stand in the cgroup's files", async () => {
    const { id } = await made.box({ limits: { memoryBytes: 96 * MIB, cpuNano: 1_500_000_000, pids: 77 } });
    expect(read(id, "memory.limit_in_bytes", "memory.max", limited)).toBe(String(96 * MIB));
    if (isV1) expect(read(id, "memory.memsw.limit_in_bytes", "", limited)).toBe(String(96 * MIB));
    expect(read(id, "pids.max", "pids.max", "payload")).toBe("76");
    expect(read(id, "cpu.cfs_quota_us", "cpu.max", limited)).toBe(isV1 ? "150000" : "150000 100000");
    if (isV1) expect(read(id, "cpu.shares", "", limited)).toBe("1536");
    if (isV1) expect(read(id, "cpu.shares", "")).toBe("2560");
    // With the guest, which the kernel bounds as well.
    const whole = String(96 * MIB + guestMemoryBytes(96 * MIB));
    expect(read(id, "memory.limit_in_bytes", "memory.max")).toBe(whole);
    expect(read(id, "memory.memsw.limit_in_bytes", "memory.swap.max")).toBe(isV1 ? whole : "0");
    expect(read(id, "pids.max", "pids.max")).toBe(String(77 + GUEST_PIDS));
    expect(read(id, "cpu.cfs_quota_us", "cpu.max")).toBe(isV1 ? "250000" : "250000 100000");
    const stats = await made.runtime.stats(id);
    expect(stats).toMatchObject({ memory_limit: 96 * MIB, oomKills: 0, network_rx: 0, network_tx: 0 });
  });

  it("kill a memory hog, and count it", async () => {
    const { id, guest } = await made.box({ limits: { ...noLimits, memoryBytes: 48 * MIB } });
    const hog = await shellInside(guest, `perl -e '$x = "x" x (256 << 20); print "got it"'`);
    expect(hog.stdout).toBe("");
    await eventually("the count", () => (made.runtime.oomKills(id) ?? 0) > 0);
    expect((await made.runtime.stats(id)).oomKills).toBeGreaterThan(0);
    expect((await made.runtime.inspect(id))?.state).toBe("running");
  });

  it("count what is written to memory file systems", async () => {
    const { id, guest } = await made.box({ tmpfs: big, limits: { ...noLimits, memoryBytes: 48 * MIB } });
    const fill = await shellInside(guest, "head -c 200000000 /dev/zero > /big/file");
    expect(fill.exit_code).not.toBe(0);
    await eventually("the count", () => (made.runtime.oomKills(id) ?? 0) > 0);
  });

  /** All that commands may have, taken for good, by one that has left its grace behind: by then it is in the group that is limited. */
  const left = (controller: string) => {
    const line = isV1 ? `:${controller}[^:]*:/limited$` : "^0::/payload/limited$";
    return `until grep -q '${line}' /proc/$$/cgroup; do sleep 0.01; done`;
  };
  const fill = `${left("memory")}; exec head -c 200000000 /dev/zero > /big/file`;
  const big = [{ path: "/big", sizeBytes: 256 * MIB, readonly: false, exec: true, mode: 0o755 }];

  it("leave the guest free to start a command where memory is used up", async () => {
    const { id, guest } = await made.box({ tmpfs: big, limits: { ...noLimits, memoryBytes: 48 * MIB } });
    expect((await shellInside(guest, fill)).exit_code).toBe(137);
    const { oomKills, memory_usage } = await made.runtime.stats(id);
    expect(oomKills).toBeGreaterThan(0);
    expect(memory_usage).toBeGreaterThan(47 * MIB);
    for (let i = 0; i < 20; i++) {
      expect(await shellInside(guest, "echo here", {})).toMatchObject({ exit_code: 0, stdout: "here\n" });
      await guest.writeFile("/tmp/note", Buffer.from("kept"));
    }
    expect(made.runtime.oomKills(id)).toBe(oomKills);
    // What goes on has nothing left to take.
    const more = await shellInside(guest, `${left("memory")}; exec perl -e '$x = q(x) x (8 << 20); print 1'`);
    expect(more).toMatchObject({ exit_code: 137, stdout: "" });
    expect(made.runtime.oomKills(id)).toBeGreaterThan(oomKills);
    expect((await made.runtime.inspect(id))?.state).toBe("running");
  });

  it("bound what the guest writes to memory file systems", async () => {
    const { id, guest } = await made.box({ tmpfs: big, limits: { ...noLimits, memoryBytes: 48 * MIB } });
    await expect(guest.writeFile("/big/file", Buffer.alloc(100 * MIB))).rejects.toThrow();
    await eventually("the count", () => (made.runtime.oomKills(id) ?? 0) > 0);
  });

  it("of memory follow changes, of the whole too, down to what is in use", async () => {
    const { id, guest } = await made.box({ tmpfs: big, limits: noLimits });
    const files = () => [
      read(id, "memory.limit_in_bytes", "memory.max", limited),
      read(id, "memory.limit_in_bytes", "memory.max"),
    ];
    const soft = () => read(id, "memory.soft_limit_in_bytes", "memory.high", limited);
    const update = (mib: number, softMib = 0) =>
      made.runtime.updateLimits(id, {
        ...noLimits,
        memoryBytes: mib * MIB,
        memoryHighBytes: softMib * MIB,
      });
    await update(64, 32);
    expect(files()).toEqual([64, 68].map((mib) => String(mib * MIB)));
    expect(soft()).toBe(String(32 * MIB));
    await update(512);
    expect(files()).toEqual([512, 528].map((mib) => String(mib * MIB)));
    const taken = await shellInside(guest, `${left("memory")}; head -c 100000000 /dev/zero > /big/file`);
    expect(taken.exit_code).toBe(0);
    await expect(update(64)).rejects.toMatchObject({ code: "sandbox_wrong_state" });
    expect(files()).toEqual([512, 528].map((mib) => String(mib * MIB)));
    await made.runtime.updateLimits(id, noLimits);
    expect((await made.runtime.stats(id)).memory_limit).toBe(0);
    expect(files()[0]).toBe(files()[1]);
  });

  it("leave the guest free to start a command where its limit of processes is reached", async () => {
    const { id, guest } = await made.box({ limits: { ...noLimits, pids: 16 } });
    await shellInside(guest, "for i in $(seq 30); do sleep 600 & done");
    await eventually("the limit to be reached", async () => (await made.runtime.stats(id)).pid_count >= 15);
    for (let i = 0; i < 20; i++) {
      expect(await shellInside(guest, "echo $$ is here", {})).toMatchObject({ exit_code: 0, stderr: "" });
    }
    const forking = await shellInside(guest, "/bin/sleep 600 & echo $!");
    expect(forking.stderr).toMatch(/fork/i);
    expect((await made.runtime.stats(id)).pid_count).toBeLessThanOrEqual(16);
  });

  it("take hold of a command that goes on, of all that it started, and of the main command at once", async () => {
    const main = "cat /proc/self/cgroup > /tmp/main; exec sleep 600";
    const { id, guest } = await made.box({
      cmd: ["sh", "-c", main],
      limits: { ...noLimits, cpuNano: 500_000_000, pids: 30 },
    });
    const ofMain = await eventually("the main command to tell", async () => {
      const { stdout } = await shellInside(guest, "cat /tmp/main");
      return stdout.includes("cpu") || stdout.includes("0::") ? stdout : undefined;
    });
    expect(ofMain).toMatch(isV1 ? /:cpu[^:]*:\/limited$/m : /^0::\/payload\/limited$/m);
    if (isV1) expect(ofMain).toMatch(/:pids:\/payload$/m);
    if (isV1) expect(ofMain).toMatch(/:memory:\/limited$/m);
    // Forks all the time, also below parents that have gone, so that something is always just being born.
    const bomb = `$SIG{CHLD} = "IGNORE"; while (1) { my $p = fork; if (defined $p && !$p) { setpgrp; fork; fork }
      select(undef, undef, undef, 0.002) if !defined $p }`;
    const running = await guest.spawn({ argv: ["perl", "-e", bomb], env: {}, detached: true });
    running.exit.catch(() => {});
    const outside = () =>
      (isV1 ? [group("cpu", id), group("memory", id)] : [join(group("", id), "payload/first")])
        .flatMap((dir) => readFileSync(join(dir, "cgroup.procs"), "utf8").split("\n"))
        .filter((pid) => pid !== "" && nameOf(pid) === "perl");
    await eventually(
      "the bomb to fill the sandbox",
      async () => (await made.runtime.stats(id)).pid_count >= 25,
    );
    await eventually("all of it to be limited", () => outside().length === 0);
    // And stays so.
    for (let i = 0; i < 100; i++) expect(outside()).toEqual([]);
    expect((await made.runtime.stats(id)).pid_count).toBeLessThanOrEqual(30);
    await running[Symbol.asyncDispose]();
  });

  it("can't be left from inside", async () => {
    const { guest } = await made.box({ limits: { ...noLimits, cpuNano: 100_000_000, pids: 60 } });
    const script = `${left("cpu")}
      for f in $(find /sys/fs/cgroup -name cgroup.procs -o -name tasks -o -name cpu.max -o -name cpu.cfs_quota_us \
        -o -name memory.max -o -name memory.limit_in_bytes); do
        echo $$ > $f && echo "wrote to $f"
      done; grep -c . /proc/self/cgroup > /dev/null; cat /proc/self/cgroup`;
    const { stdout } = await shellInside(guest, script);
    expect(stdout).not.toContain("wrote");
    expect(stdout).toMatch(isV1 ? /:cpu[^:]*:\/limited$/m : /^0::\/payload\/limited$/m);
  });

  it("hold a fork bomb, which remove ends", async () => {
    const { id, guest } = await made.box({ limits: { ...noLimits, pids: 40 } });
    // Each process forks for ever, and waits a moment where it can't.
    const argv = ["perl", "-e", "while (1) { defined(fork) or select(undef, undef, undef, 0.05) }"];
    const bomb = await guest.spawn({ argv, env: {}, detached: true });
    bomb.exit.catch(() => {});
    await eventually("the limit to be reached", async () => (await made.runtime.stats(id)).pid_count >= 38);
    expect((await made.runtime.stats(id)).pid_count).toBeLessThanOrEqual(40);
    await made.runtime.remove(id);
    expect(made.leftovers(id)).toEqual([]);
  });
});

function nameOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return ""; // ended meanwhile
  }
}

describe("limits that a host can't enforce", () => {
  const host = {
    version: 1 as const,
    limits: ["pids" as const],
    swapLimited: true,
    swapController: false,
    mounts: [],
    byController: new Map<string, string>(),
    memoryNests: true,
    hasPayloadGroups: false,
  };
  it("are refused by name", () => {
    expect(() => checkLimits(host, { ...noLimits, memoryBytes: 1 })).toThrow("can't enforce a memory limit");
    expect(() => checkLimits(host, { ...noLimits, cpuNano: 1 })).toThrow("can't enforce a cpu limit");
    expect(() => checkLimits(host, { ...noLimits, pids: 1 })).not.toThrow();
    const swapping = { ...host, limits: ["memory" as const], swapLimited: false };
    expect(() => checkLimits(swapping, { ...noLimits, memoryBytes: 1 })).toThrow("with swap included");
    expect(createCgroups(host, "x").path("y")).toBe("/warren-x/y");
  });
});
