import { ociPrograms } from "../../src/runtimes/oci/programs.ts";
import { testRuntime } from "../../src/testing/index.ts";
import { openTestRuntime, type TestRuntime } from "../runtimes/oci/support/open.ts";
import { shortRuntime } from "./support/short-form.ts";

for (const program of ociPrograms) {
  let opened: TestRuntime;
  testRuntime(
    `oci with ${program}`,
    async () => {
      opened = await openTestRuntime(program);
      return { runtime: opened.runtime, close: opened.close };
    },
    {
      leftovers: (id) => opened.leftovers(id),
      ...(program === "crun" ? {} : shortRuntime),
    },
  );
}
