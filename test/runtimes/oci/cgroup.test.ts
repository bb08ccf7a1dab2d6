import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createCgroups } from "../../../src/runtimes/common/cgroup.ts";
import { createLiveLimits } from "../../../src/runtimes/common/live-limits.ts";
import { createPayloadGroups } from "../../../src/runtimes/common/payload-groups.ts";
import { createFreezer } from "../../../src/runtimes/oci/freezer.ts";

describe("cgroup v1", () => {
  const host = (mount: string) => ({
    version: 1 as const,
    limits: ["memory" as const],
    swapLimited: true,
    swapController: true,
    mounts: [mount],
    byController: new Map([["memory", mount]]),
    memoryNests: true,
    hasPayloadGroups: true,
  });

  it("adds up what was killed for memory, which the kernel counts group by group", () => {
    const mount = mkdtempSync(join(tmpdir(), "woci-cgroup-"));
    const cgroups = createCgroups(host(mount), "me");
    const control = (below: string, kills: number) => {
      const dir = join(mount, "warren-me", "box", below);
      mkdirSync(dir, { recursive: true });
      writeFileSync(join(dir, "memory.oom_control"), `oom_kill_disable 0\nunder_oom 0\noom_kill ${kills}\n`);
    };
    expect(cgroups.oomKills("box")).toBeUndefined();
    control("", 1);
    expect(cgroups.oomKills("box")).toBe(1);
    control("limited", 2);
    expect(cgroups.oomKills("box")).toBe(3);
    rmSync(mount, { recursive: true });
  });

  it("leaves memory as one limit for all where the kernel would count commands beside it", () => {
    const limits = { memoryBytes: 64 << 20, cpuNano: 0, pids: 0 };
    const plan = (memoryNests: boolean) => {
      const one = { ...host("/memory"), memoryNests };
      return createPayloadGroups(one, createCgroups(one, "me")).plan("box", { limits, network: "none" });
    };
    expect(plan(true)).toMatchObject({
      handed: ["/memory/warren-me/box/limited/cgroup.procs"],
      guestArgs: ["--group-limited", "4"],
      outer: { memoryBytes: 68 << 20 },
    });
    expect(plan(false)).toMatchObject({ handed: [], guestArgs: [], writes: [], outer: limits });
  });
});

/** Files as a cgroup v2 host has them; the real v1 or v2 of this host is covered by the limits tests. */
describe("cgroup v2", () => {
  let mount = "";
  beforeEach(() => {
    mount = mkdtempSync(join(tmpdir(), "woci-cgroup-"));
  });
  afterEach(() => rmSync(mount, { recursive: true }));

  const host = () => ({
    version: 2 as const,
    limits: ["memory" as const, "cpu" as const, "pids" as const],
    swapLimited: true,
    swapController: true,
    mounts: [mount],
    byController: new Map<string, string>(),
    memoryNests: true,
    hasPayloadGroups: true,
  });

  it("reads the numbers of a sandbox", async () => {
    const dir = join(mount, "warren-me", "box");
    mkdirSync(dir, { recursive: true });
    const files = {
      "cpu.stat": "usage_usec 1234\nuser_usec 1000\n",
      "memory.current": "5000\n",
      "memory.max": "max\n",
      "memory.stat": "anon 1\ninactive_file 2000\n",
      "memory.events": "low 0\noom 3\noom_kill 2\n",
      "pids.current": "4\n",
      "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=5 wbytes=6 rios=1\n",
      "cgroup.procs": "17\n",
    };
    for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text);
    const cgroups = createCgroups(host(), "me");
    expect(await cgroups.stats("box")).toEqual({
      cpuTotalNs: 1_234_000,
      memory_usage: 3000,
      memory_limit: 0,
      pid_count: 4,
      disk_read: 15,
      disk_write: 26,
      oomKills: 2,
    });
    expect(cgroups.oomKills("box")).toBe(2);
    expect(cgroups.oomKills("gone")).toBeUndefined();
    expect(cgroups.hasMembers("box")).toBe(true);
    expect(cgroups.hasMembers("gone")).toBe(false);
    expect(await cgroups.list()).toEqual(["box"]);
  });

  it("removes nested groups, and an empty parent only", async () => {
    const cgroups = createCgroups(host(), "me");
    mkdirSync(join(mount, "warren-me", "box", "inner", "most"), { recursive: true });
    mkdirSync(join(mount, "warren-me", "other"));
    await cgroups.remove("box");
    await cgroups.remove("box");
    await cgroups.removeParent();
    expect(await cgroups.list()).toEqual(["other"]);
    await cgroups.remove("other");
    await cgroups.removeParent();
    expect(await cgroups.list()).toEqual([]);
  });

  const box = (files: Record<string, string>, below = "") => {
    const dir = join(mount, "warren-me", "box", below);
    mkdirSync(dir, { recursive: true });
    for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text);
    return (name: string) => readFileSync(join(dir, name), "utf8").trim();
  };

  it("freezes when the kernel says that all have stopped, and gives up in bounded time", async () => {
    const cgroups = createCgroups(host(), "me");
    const freezer = createFreezer(host(), cgroups);
    const read = box({ "cgroup.freeze": "0\n", "cgroup.events": "populated 1\nfrozen 1\n" });
    await freezer.freeze("box");
    expect(read("cgroup.freeze")[0]).toBe("1");
    expect(freezer.isFrozen("box")).toBe(true);
    await freezer.thaw("box");
    expect(freezer.isFrozen("box")).toBe(false);
    box({ "cgroup.events": "populated 1\nfrozen 0\n" });
    await expect(freezer.freeze("box", 20)).rejects.toMatchObject({ code: "runtime_failed" });
    expect(freezer.isFrozen("box")).toBe(false);
    await expect(freezer.freeze("gone")).rejects.toMatchObject({ code: "sandbox_wrong_state" });
    expect(freezer.isFrozen("gone")).toBe(false);
    await freezer.thaw("gone");
  });

  it("writes limits, and none that what is in use does not fit into", async () => {
    const cgroups = createCgroups(host(), "me");
    const limits = createLiveLimits(host(), cgroups, createPayloadGroups(host(), cgroups));
    const empty = ["memory.max", "memory.high", "memory.swap.max", "cpu.max", "cpu.weight", "pids.max"];
    const read = box({
      ...Object.fromEntries(empty.map((name) => [name, ""])),
      "memory.current": "90000000\n",
      "memory.stat":
        "anon 50000000\ninactive_file 20000000\nactive_file 10000000\nslab_reclaimable 10000000\n",
    });
    const some = { memoryBytes: 50_000_000, memoryHighBytes: 40_000_000, cpuNano: 1_500_000_000, pids: 77 };
    await limits.apply("box", { limits: some, network: "none" });
    expect(empty.map(read)).toEqual(["50000000", "40000000", "0", "150000 100000", "59", "77"]);
    await expect(
      limits.apply("box", { limits: { ...some, memoryBytes: 49_999_999 }, network: "none" }),
    ).rejects.toMatchObject({
      code: "sandbox_wrong_state",
    });
    for (const name of empty) box({ [name]: "" });
    await limits.apply("box", { limits: { memoryBytes: 0, cpuNano: 0, pids: 0 }, network: "none" });
    expect(empty.map(read)).toEqual(["max", "max", "max", "max 100000", "100", "max"]);
  });

  it("limits the memory of commands where they have a group for it, and the whole a little above", async () => {
    const cgroups = createCgroups(host(), "me");
    const limits = createLiveLimits(host(), cgroups, createPayloadGroups(host(), cgroups));
    const files = ["memory.max", "memory.high", "memory.swap.max"];
    const stat = "active_file 0\ninactive_file 0\nslab_reclaimable 0\n";
    const of = (current: number) => ({
      ...Object.fromEntries(files.map((name) => [name, ""])),
      "memory.current": `${current}\n`,
      "memory.stat": stat,
      "cpu.max": "",
      "cpu.weight": "",
      "pids.max": "",
    });
    const whole = box(of(40 << 20));
    const commands = box(of(30 << 20), "payload/limited");
    const set = (mib: number) =>
      limits.apply("box", { limits: { memoryBytes: mib << 20, cpuNano: 0, pids: 0 }, network: "none" });
    await set(64);
    expect(files.map(commands)).toEqual([String(64 << 20), "max", "0"]);
    expect(files.map(whole)).toEqual([String(68 << 20), "", "0"]);
    expect(await cgroups.stats("box")).toMatchObject({ memory_limit: 64 << 20, memory_usage: 40 << 20 });
    // Of commands, and of the whole.
    await expect(set(29)).rejects.toMatchObject({ code: "sandbox_wrong_state", message: /uses 30/ });
    await expect(set(35)).rejects.toMatchObject({ code: "sandbox_wrong_state", message: /uses 40/ });
  });
});
