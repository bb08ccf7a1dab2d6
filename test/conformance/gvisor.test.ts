import { it } from "vitest";
import { testRuntime } from "../../src/testing/index.ts";
import { noGvisor } from "../runtimes/oci/support/gvisor.ts";
import { openTestRuntime, type TestRuntime } from "../runtimes/oci/support/open.ts";

/** A sandbox starts in 0.3 s and a fork takes 20 ms: what is left out is the guest's own work, which crun and runc test. */
const short = [
  "says what it can do",
  "creates without running anything, then runs",
  "keeps files over stop and start",
  "leaves a sandbox whole whose start fails",
  "sees that a sandbox's first process was killed",
  "leaves nothing on the host after remove",
  "tells what a sandbox uses",
  "keeps stdout and stderr apart, and tells the exit code",
  "gives a terminal that can be resized and interrupted",
  "kills a command's whole tree at its timeout",
  "reaches a port inside, and only inside",
  "captures what programs that know no proxy connect to, or says that it can't",
  "starts the main command, and tells its end",
  "tells by its wait connection that the guest is gone",
  "holds the memory limit, and counts what was killed for it",
  "holds the limit of processes",
  "keeps a read-only root as it is",
  "changes limits while it runs, and keeps them for later starts",
  "freezes and thaws, and ends what is frozen",
  "mounts tmpfs with size, mode and options",
  "keeps a volume over stop and removal, and shares it between sandboxes",
  "keeps read-only what is mounted so",
  "does not follow a link of the image to the host",
  "mounts what lies in another mount over it",
  "outlives its sandbox, and sandboxes that are made of it outlive it",
  "brings programs to services of the host, at a socket and a port, in every network",
];

if (noGvisor) it.skip(`the runtime suite with gVisor [not possible here: ${noGvisor}]`, () => {});
else define();

function define(): void {
  let opened: TestRuntime;
  testRuntime(
    "oci with runsc",
    async () => {
      opened = await openTestRuntime("runsc");
      return { runtime: opened.runtime, close: opened.close };
    },
    {
      isolation: "gvisor",
      leftovers: (id) => opened.leftovers(id),
      ...(process.env.WARREN_LONG === "1"
        ? {}
        : { only: { tests: short, why: "slow: runs with WARREN_LONG=1" } }),
      deviations: [
        {
          reason: "to the host the sandbox is gVisor's kernel: what is above the memory limit ends all of it",
          tests: [
            "holds the memory limit, and counts what was killed for it",
            "changes limits while it runs, and keeps them for later starts",
          ],
        },
        {
          reason:
            "to the host the sandbox is gVisor's kernel: its own threads count, and one too many ends all of it",
          tests: ["holds the limit of processes"],
        },
        {
          reason: "a FIFO is gVisor's kernel's alone, and no file",
          tests: ["keeps a root filesystem as it was at one instant, and nothing of what is mounted in it"],
        },
        {
          reason: "gVisor's /proc/mounts tells neither nosuid nor nodev",
          tests: ["mounts tmpfs with size, mode and options"],
        },
      ],
    },
  );
}
