import type { Deviation } from "../../../../src/testing/suite.ts";

/** Of a Podman that is not on our machine, as far as we know. */
export const elsewhere: Deviation[] = [
  {
    reason: "Podman's API counts the length of a volume's files, holes included",
    tests: ["tells how much of the disk a volume takes"],
  },
  {
    reason:
      "Podman goes on with a build whose connection has closed, and its service there is not ours to end",
    tests: ["ends a build that is given up, with all that it runs"],
  },
  {
    reason: "Podman keeps the monitor of a program that its API has executed for five minutes",
    tests: ["leaves nothing on the host after remove"],
  },
  {
    reason: "what there is to mount is on the engine's machine, and its refusal has no code of its own",
    tests: ["stays stopped and whole when a source has gone"],
  },
];
