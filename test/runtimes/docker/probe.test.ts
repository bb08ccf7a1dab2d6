import { describe, expect, it } from "vitest";
import { WarrenError } from "../../../src/contracts/errors.ts";
import { silentLogger } from "../../../src/lib/log.ts";
import type { ApiClient } from "../../../src/runtimes/containers/api-client.ts";
import type { Endpoint } from "../../../src/runtimes/containers/endpoint.ts";
import { capabilitiesOf } from "../../../src/runtimes/docker/capabilities.ts";
import { readDaemon } from "../../../src/runtimes/docker/daemon.ts";
import { probeDocker } from "../../../src/runtimes/docker/probe.ts";
import { openDockerRuntime } from "../../../src/runtimes/docker/runtime.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { openDockerRig } from "./support/open.ts";

/** As Docker 29 on a host of our time answers. */
const info = {
  ServerVersion: "29.5.1",
  OperatingSystem: "Debian GNU/Linux 13 (trixie)",
  Driver: "overlayfs",
  CgroupDriver: "systemd",
  CgroupVersion: "2",
  DefaultRuntime: "runc",
  SecurityOptions: ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"],
  MemoryLimit: true,
  SwapLimit: true,
  CpuCfsPeriod: true,
  CpuCfsQuota: true,
  PidsLimit: true,
};
const version = { Components: [{ Name: "runc", Version: "1.3.6", Details: { GitCommit: "v1.3.6-0-g1" } }] };

const answering = (patch: object = {}, endpoint: Endpoint = { kind: "unix", path: "/x" }): ApiClient => ({
  endpoint,
  json: async ({ path }) => (path === "/info" ? { ...info, ...patch } : version),
  stream: () => Promise.reject(new WarrenError("internal", "not asked")),
  hijack: () => Promise.reject(new WarrenError("internal", "not asked")),
  close: () => {},
});
const findingsOf = async (client: ApiClient, level: string) =>
  (await probeDocker(client)).findings.filter((finding) => finding.level === level);

describe("what the probe says of a daemon", () => {
  it("tells version, storage and cgroups, and warns of nothing else than root", async () => {
    const report = await probeDocker(answering());
    expect(report).toMatchObject({ runtime: "docker", usable: true, version: "docker 29.5.1" });
    expect(report.findings.map(({ level, message }) => `${level}: ${message}`)).toEqual([
      "ok: docker 29.5.1 answers at unix:///x: storage overlayfs, cgroup v2 by systemd",
      expect.stringContaining("warning: root in a sandbox is root on the host"),
      "ok: cgroup v2 limits memory, cpu, pids",
    ]);
  });

  it("does not warn of root where ids are remapped or Docker is rootless", async () => {
    for (const option of ["name=userns", "name=rootless"]) {
      const client = answering({ SecurityOptions: ["name=seccomp,profile=builtin", option] });
      expect(await findingsOf(client, "warning")).toEqual([]);
      expect(capabilitiesOf(await readDaemon(client)).userNamespace).toBe(true);
    }
  });

  it("promises no limit that the daemon doesn't", async () => {
    const limits = async (patch: object) => capabilitiesOf(await readDaemon(answering(patch)));
    expect(await limits({})).toMatchObject({ limits: ["memory", "cpu", "pids"] });
    expect(await limits({})).not.toHaveProperty("limitsMissing");
    // Swap that isn't counted makes a limit of memory none.
    expect(await limits({ SwapLimit: false })).toMatchObject({
      limits: ["cpu", "pids"],
      limitsMissing: { fix: "boot the kernel with swapaccount=1" },
    });
    expect(await limits({ CpuCfsQuota: false })).toMatchObject({ limits: ["memory", "pids"] });
    const rootless = await limits({
      SecurityOptions: ["name=seccomp", "name=rootless"],
      ...{ MemoryLimit: false, SwapLimit: false, CpuCfsQuota: false, PidsLimit: false },
    });
    expect(rootless).toMatchObject({
      limits: [],
      limitsMissing: { why: expect.stringContaining("rootless") },
    });
  });

  it("warns of published escapes, of plain TCP, and of a daemon without a filter", async () => {
    const weak = await findingsOf(answering({ ServerVersion: "20.10.2" }), "warning");
    expect(weak.map(({ message }) => message).join()).toMatch(
      /docker 20\.10\.2 has published escapes: CVE-2021-21284/,
    );
    const plain = await findingsOf(answering({}, { kind: "tcp", host: "10.0.0.1", port: 2375 }), "warning");
    expect(plain.map(({ message }) => message).join()).toContain("neither encrypted nor authenticated");
    const unfiltered = await probeDocker(answering({ SecurityOptions: [] }));
    expect(unfiltered.usable).toBe(false);
    expect(unfiltered.findings).toContainEqual(expect.objectContaining({ level: "error" }));
  });

  it("shows no control characters of what the daemon says", async () => {
    const { version: shown, findings } = await probeDocker(
      answering({ ServerVersion: "1\u001b[2J", Driver: "a\nb" }),
    );
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
    expect(`${shown} ${findings.map(({ message }) => message)}`).not.toMatch(/[\u0000-\u001f]/);
  });
});

describe("a real daemon", () => {
  it("is refused with --strict when it, or its runc, has published escapes", async () => {
    const rig = await openDockerRig();
    try {
      const { findings, version: shown } = await rig.runtime.probe();
      const weak = findings.filter(({ message }) => message.includes("published escapes"));
      expect(shown).toMatch(/^docker \d+\./);
      const again = openDockerRuntime({
        ...{ stateDir: rig.stateDir, ownerId: "strict", log: silentLogger, strict: true },
        docker: { host: rig.daemon.url },
      });
      if (weak.length === 0) await (await again).close();
      else expect((await expectFailure(again, "runtime_unavailable")).message).toContain("--strict");
    } finally {
      await rig.close();
    }
  });
});
