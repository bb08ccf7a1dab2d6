import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { checkLimits, createCgroups } from "../../../src/runtimes/oci/cgroup.ts";
import { ociPrograms } from "../../../src/runtimes/oci/programs.ts";
import { shellInside } from "../../../src/testing/guest-tools.ts";
import { eventually } from "../../../src/testing/wait.ts";
import { noLimits, openTestRuntime, type TestRuntime } from "./support/open.ts";

const MIB = 1 << 20;
const isV1 = existsSync("/sys/fs/cgroup/memory");

describe.each(ociPrograms)("limits, with %s", (program) => {
  let made: TestRuntime;
  beforeAll(async () => {
    made = await openTestRuntime(program);
  });
  afterAll(() => made.close());

  const read = (id: string, v1: string, v2: string) => {
    const path = isV1
      ? join("/sys/fs/cgroup", v1.split(".")[0] === "cpu" ? "cpu" : (v1.split(".")[0] as string))
      : "/sys/fs/cgroup";
    return readFileSync(join(path, `warren-${made.ownerId}`, id, isV1 ? v1 : v2), "utf8").trim();
  };

  it("stand in the cgroup's files", async () => {
    const { id } = await made.box({ limits: { memoryBytes: 96 * MIB, cpuNano: 1_500_000_000, pids: 77 } });
    expect(read(id, "memory.limit_in_bytes", "memory.max")).toBe(String(96 * MIB));
    expect(read(id, "memory.memsw.limit_in_bytes", "memory.swap.max")).toBe(isV1 ? String(96 * MIB) : "0");
    expect(read(id, "pids.max", "pids.max")).toBe("77");
    expect(read(id, "cpu.cfs_quota_us", "cpu.max")).toBe(isV1 ? "150000" : "150000 100000");
    if (isV1) expect(read(id, "cpu.shares", "")).toBe("1536");
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
    const tmpfs = [{ path: "/big", sizeBytes: 256 * MIB, readonly: false, exec: true, mode: 0o755 }];
    const { id, guest } = await made.box({ tmpfs, limits: { ...noLimits, memoryBytes: 48 * MIB } });
    const fill = await shellInside(guest, "head -c 200000000 /dev/zero > /big/file");
    expect(fill.exit_code).not.toBe(0);
    await eventually("the count", () => (made.runtime.oomKills(id) ?? 0) > 0);
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

describe("limits that a host can't enforce", () => {
  const host = {
    version: 1 as const,
    limits: ["pids" as const],
    swapLimited: true,
    swapController: false,
    mounts: [],
    byController: new Map<string, string>(),
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
