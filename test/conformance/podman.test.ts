import { silentLogger } from "../../src/lib/log.ts";
import { openPodmanRuntime } from "../../src/runtimes/podman/runtime.ts";
import { testRuntime } from "../../src/testing/index.ts";
import { testImage } from "../runtimes/podman/support/storage.ts";
import { onPodman } from "./support/podman.ts";

testRuntime(
  "podman",
  () => onPodman((stateDir) => openPodmanRuntime({ stateDir, ownerId: "t1", log: silentLogger })),
  {
    image: testImage,
    lacks: ["directory"],
  },
);
