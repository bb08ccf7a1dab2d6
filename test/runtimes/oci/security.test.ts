import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ociPrograms } from "../../../src/runtimes/oci/programs.ts";
import type { Box } from "../common/support/boxes.ts";
import { testSecurityInside } from "../support/security.ts";
import { openTestRuntime, type TestRuntime } from "./support/open.ts";
import { busyboxRoot } from "./support/rootfs.ts";

describe.each(ociPrograms)("security of a sandbox, with %s", (program) => {
  let made: TestRuntime;
  let box: Box;
  beforeAll(async () => {
    made = await openTestRuntime(program);
    box = await made.box({ limits: { memoryBytes: 256 << 20, cpuNano: 0, pids: 100 } });
  });
  afterAll(() => made.close());

  testSecurityInside(() => box, "sandbox");

  it("keeps what is mounted from the host in place", async () => {
    expect(await box.sh("mv /usr /moved 2>/dev/null && echo moved; ls /.warren")).toBe("guest\n");
  });

  it("tells nothing of its layers and of who owns it", async () => {
    expect(await box.sh("cat /proc/mounts")).not.toContain(made.stateDir);
    expect(await box.sh("ls -l /proc/self/fd; cat /proc/self/cgroup")).not.toContain(made.ownerId);
  });

  it("starts an image whose /proc, /dev and /sys are links to the host's", async () => {
    const root = busyboxRoot();
    const outside = mkdtempSync(join(tmpdir(), "woci-target-"));
    try {
      for (const name of ["proc", "dev", "sys", ".warren", "etc"])
        symlinkSync(outside, join(root.path, name));
      mkdirSync(join(root.path, "tmp"));
      const image = await made.runtime.images.ensure(root.path);
      const hostile = await made.box({ image });
      expect(await hostile.sh("busybox stat -c %F /proc /dev /sys /.warren")).toBe("directory\n".repeat(4));
      expect(await hostile.sh("busybox cat /proc/1/comm")).toBe("guest\n");
      await made.runtime.remove(hostile.id);
      expect(made.leftovers(hostile.id)).toEqual([]);
    } finally {
      root[Symbol.dispose]();
      rmSync(outside, { recursive: true });
    }
  });
});
