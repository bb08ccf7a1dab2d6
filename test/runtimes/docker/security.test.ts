import { readdirSync, readlinkSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { expectFailure } from "../../../src/testing/failures.ts";
import type { Box } from "../../../src/testing/runtime-fixture.ts";
import { sh } from "../common/support/boxes.ts";
import { testSecurityInside } from "../support/security.ts";
import { buildImage, type DockerRig, IMAGE, openDockerRig } from "./support/open.ts";

const aTmpfs = { sizeBytes: 1 << 20, readonly: false, exec: true, mode: 0o1777 };

describe("security of a sandbox in Docker", () => {
  let rig: DockerRig;
  let box: Box;
  beforeAll(async () => {
    rig = await openDockerRig();
    box = await rig.fixture.box({ limits: { memoryBytes: 256 << 20, cpuNano: 0, pids: 100 } });
  });
  afterAll(() => rig.close());

  testSecurityInside(() => ({ sh: (script, user) => sh(box, script, user) }), "dev");

  it("has its own namespaces, and no network but loopback", async () => {
    const ours = new Set<string>();
    const names = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
    for (const name of names) ours.add(readlinkSync(`/proc/self/ns/${name}`));
    const seen = await sh(box, `for n in ${names.join(" ")}; do readlink /proc/self/ns/$n; done`);
    for (const link of seen.trim().split("\n")) expect(ours).not.toContain(link);
    expect(await sh(box, "ls /sys/class/net")).toBe("lo\n");
  });

  it("gets no device, no socket of Docker's and nothing of the host", async () => {
    expect(await sh(box, "ls /dev")).not.toMatch(/sd|vd|loop|kvm|fuse|mem/);
    expect(await sh(box, "ls /run /var/run 2>/dev/null | grep docker || echo none")).toBe("none\n");
    expect(await sh(box, "cat /proc/sys/kernel/core_pattern >/dev/null; ulimit -c")).toMatch(/^(0|1)\n$/);
  });

  it("keeps root's capabilities from a set-user-id program", async () => {
    const script = "cp /bin/cat /tmp/suid && chmod 4755 /tmp/suid && chmod 755 /tmp";
    await sh(box, script);
    expect(await sh(box, "/tmp/suid /proc/self/status | grep -E '^(Uid|CapEff)'", "dev")).toBe(
      "Uid:\t1234\t1234\t1234\t1234\nCapEff:\t0000000000000000\n",
    );
  });

  it("gets nothing of the host by an image whose mount points are links to it", async () => {
    const build = (name: string, script: string) =>
      buildImage(rig.daemon, name, `FROM ${IMAGE}\nRUN ${script}\n`);
    const before = readdirSync("/etc").sort();
    const image = await rig.runtime.images.ensure(
      await build("links:1", "rmdir /opt && ln -s ../../../etc /opt && ln -s /etc /srv"),
    );
    const tmpfs = ["/opt", "/srv/inner"].map((path) => ({ path, ...aTmpfs }));
    const linked = await rig.fixture.box({ image, tmpfs });
    expect(await sh(linked, "cat /proc/1/comm; echo x >/opt/made; echo x >/srv/made")).toBe("guest\n");
    // Where the guest should be is something else then, and nothing starts.
    const worse = await rig.runtime.images.ensure(await build("links:2", "ln -s /etc /.warren"));
    await expectFailure(rig.fixture.box({ image: worse }), "runtime_failed");
    expect(readdirSync("/etc").sort()).toEqual(before);
  });
});
