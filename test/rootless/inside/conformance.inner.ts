import { existsSync } from "node:fs";
import { expect, it } from "vitest";
import { ociPrograms } from "../../../src/runtimes/oci/programs.ts";
import { testRuntime } from "../../../src/testing/index.ts";
import { shortRuntime } from "../../conformance/support/short-form.ts";
import { openTestRuntime, type TestRuntime } from "../../runtimes/oci/support/open.ts";

const group = `warren-${process.getuid?.()}`;
const hasCgroups = ["", "memory/"].some((hierarchy) => existsSync(`/sys/fs/cgroup/${hierarchy}${group}`));

for (const program of ociPrograms) {
  let opened: TestRuntime;
  testRuntime(
    `rootless oci with ${program}${hasCgroups ? " and cgroups" : ""}`,
    async () => {
      opened = await openTestRuntime(program);
      return { runtime: opened.runtime, close: opened.close };
    },
    {
      leftovers: (id) => opened.leftovers(id),
      lacks: hasCgroups ? [] : ["memory", "cpu", "pids", "pause"],
      ...(program === "crun" ? {} : shortRuntime),
    },
  );
}

it("has no gVisor, and says so", async () => {
  const opened = await openTestRuntime("crun");
  try {
    expect(opened.runtime.capabilities.isolation).toEqual(["container"]);
    expect((await opened.runtime.probe()).findings).toContainEqual({
      level: "warning",
      message: "isolation gvisor is refused: it needs root so far",
      fix: "run the engine as root",
    });
  } finally {
    await opened.close();
  }
});
