import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { silentLogger } from "../../../src/lib/log.ts";
import { knownWeaknesses } from "../../../src/runtimes/common/known-weaknesses.ts";
import { findOciProgram, ociPrograms } from "../../../src/runtimes/oci/programs.ts";
import { openOciRuntime } from "../../../src/runtimes/oci/runtime.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { openTestRuntime } from "./support/open.ts";

describe("the probe", () => {
  it.each(ociPrograms)("finds that %s works here", async (program) => {
    const made = await openTestRuntime(program);
    try {
      const report = await made.runtime.probe();
      expect(report).toMatchObject({ runtime: "oci", usable: true });
      expect(report.version).toMatch(new RegExp(`^${program} \\d`));
      expect(await made.runtime.list()).toEqual([]);
    } finally {
      await made.close();
    }
  });

  describe("with programs that don't work", () => {
    const path = process.env.PATH;
    let bin = "";
    beforeEach(() => {
      bin = mkdtempSync(join(tmpdir(), "woci-bin-"));
      process.env.PATH = `${bin}:${path}`;
    });
    afterEach(() => {
      process.env.PATH = path;
      rmSync(bin, { recursive: true });
    });

    /** A stand-in that says what crun says on hosts with hybrid cgroups. */
    const fakeCrun = (message: string) => {
      const script = `#!/bin/sh
[ "$1" = --version ] && echo "crun version 1.8.1" && exit 0
while [ $# -gt 0 ]; do [ "$1" = --log ] && log=$2; shift; done
[ -n "$log" ] && echo '{"msg":"${message}","level":"error"}' >"$log"
exit 1
`;
      writeFileSync(join(bin, "crun"), script, { mode: 0o755 });
    };

    const open = async (stateDir: string, ociProgram?: "crun") =>
      openOciRuntime({
        stateDir,
        ownerId: "probetest",
        log: silentLogger,
        ...(ociProgram ? { ociProgram } : {}),
      });

    it("recognises crun's refusal of hybrid cgroups, names the mend, and uses runc", async () => {
      fakeCrun("cgroups in hybrid mode not supported, drop all controllers from cgroupv2");
      const stateDir = mkdtempSync(join(tmpdir(), "woci-"));
      const runtime = await open(stateDir);
      try {
        const report = await runtime.probe();
        expect(report.usable).toBe(true);
        expect(report.version).toMatch(/^runc /);
        const finding = report.findings.find((found) => found.message.includes("hybrid"));
        expect(finding).toMatchObject({
          level: "warning",
          fix: "mkdir -p /sys/fs/cgroup/hugetlb && mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb",
        });
      } finally {
        await runtime.close();
        rmSync(stateDir, { recursive: true });
      }
    });

    it("refuses to create when nothing works, with the reason", async () => {
      fakeCrun("out of order");
      const stateDir = mkdtempSync(join(tmpdir(), "woci-"));
      const runtime = await open(stateDir, "crun");
      try {
        const report = await runtime.probe();
        expect(report).toMatchObject({ usable: false });
        expect(report.findings[0]).toMatchObject({ level: "error" });
        const image = await runtime.images.ensure("host");
        const spec = {
          id: "box1",
          image,
          env: {},
          workdir: "/",
          hostname: "box",
          labels: {},
          network: "none" as const,
          isolation: "container" as const,
          readonlyRoot: false,
          tmpfs: [],
          mounts: [],
          limits: { memoryBytes: 0, cpuNano: 0, pids: 0 },
        };
        const error = await expectFailure(runtime.create(spec), "runtime_unavailable");
        expect(error.message).toContain("out of order");
        expect(await runtime.list()).toEqual([]);
      } finally {
        await runtime.close();
        rmSync(stateDir, { recursive: true });
      }
    });
  });

  it("refuses a version with published escapes when it is to be strict", async () => {
    const stateDir = mkdtempSync(join(tmpdir(), "woci-"));
    const runtime = await openOciRuntime({
      ...{ stateDir, ownerId: "strict", log: silentLogger },
      ...{ ociProgram: "runc", strict: true },
    });
    try {
      // Debian 12's runc has none of the fixes of 2025.
      const program = await findOciProgram("runc");
      const isWeak = program !== undefined && knownWeaknesses(program).length > 0;
      const report = await runtime.probe();
      expect(report.usable).toBe(!isWeak);
      if (isWeak) expect(report.findings[0]).toMatchObject({ level: "error" });
    } finally {
      await runtime.close();
      rmSync(stateDir, { recursive: true });
    }
  });

  it("gives no sandbox the machine's network when it is to be strict, not even one that had it", async () => {
    const made = await openTestRuntime("crun");
    const { id } = await made.box({ network: "host" });
    await made.runtime.stop(id, { timeoutMs: 0 });
    await made.runtime.close();
    const { stateDir, ownerId } = made;
    const strict = await openOciRuntime({
      ...{ stateDir, ownerId, log: silentLogger, ociProgram: "crun", strict: true },
    });
    try {
      expect(strict.capabilities.networkModes).not.toContain("host");
      expect(strict.capabilities.networkMissing?.host?.why).toContain("--strict");
      const spec = await made.spec({ network: "host", image: await strict.images.ensure("host") });
      await expectFailure(strict.create(spec), "unsupported");
      await expectFailure(strict.start(id), "unsupported");
      expect(await strict.inspect(id)).toMatchObject({ state: "stopped" });
    } finally {
      await strict.close();
      await made.reopen();
      await made.close();
    }
  });

  it("knows which versions have which published escapes", () => {
    const runc = (version: string, revision?: string) =>
      knownWeaknesses({ name: "runc", version, ...(revision === undefined ? {} : { revision }) });
    const of2025 = ["CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881", "CVE-2026-41579"];
    expect(runc("1.0.0-rc94")).toContain("CVE-2021-30465");
    expect(runc("1.1.4")).toContain("CVE-2023-27561");
    expect(runc("1.1.11")).toContain("CVE-2024-21626");
    expect(runc("1.1.12")).not.toContain("CVE-2024-21626");
    expect(runc("1.1.5+ds1", "1.1.5+ds1-1+deb12u1")).toEqual(["CVE-2024-45310", ...of2025]);
    expect(runc("1.2.7")).toEqual(of2025);
    expect(runc("1.2.8")).toEqual(["CVE-2026-41579"]);
    expect(runc("1.4.0-rc.2")).toEqual(of2025);
    expect(runc("1.3.6")).toEqual([]);
    expect(runc("1.5.0")).toEqual([]);
    expect(runc("2.0.0")).toEqual([]);
    expect(runc("unknown")).toEqual([]);
    expect(knownWeaknesses({ name: "crun", version: "1.4.3" })).toEqual(["CVE-2022-27650"]);
    expect(knownWeaknesses({ name: "crun", version: "1.8.1" })).toEqual([]);
    const docker = (version: string) => knownWeaknesses({ name: "docker", version });
    const atCopies = ["CVE-2026-41567", "CVE-2026-41568", "CVE-2026-42306"];
    expect(docker("19.03.13")).toEqual(["CVE-2021-21284", "CVE-2021-41091", "CVE-2022-24769", ...atCopies]);
    expect(docker("20.10.24+dfsg1")).toEqual(atCopies);
    expect(docker("28.5.2")).toEqual(atCopies);
    expect(docker("29.5.1")).toEqual([]);
    // Dates: upstream's form and Debian's.
    for (const version of ["release-20210628.0", "0.0~20210628.0"]) {
      expect(knownWeaknesses({ name: "runsc", version })).toEqual(["CVE-2021-30465"]);
    }
    for (const version of ["release-20240729.0", "0.0~20240729.0", "0.0~20221219.0"]) {
      expect(knownWeaknesses({ name: "runsc", version })).toEqual([]);
    }
  });
});
