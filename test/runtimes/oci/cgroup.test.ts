import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createCgroups } from "../../../src/runtimes/oci/cgroup.ts";

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
});
