import { testRuntime } from "../../src/testing/index.ts";
import { type DockerRig, IMAGE, openDockerRig } from "../runtimes/docker/support/open.ts";

let rig: DockerRig;

testRuntime(
  "docker",
  async () => {
    rig = await openDockerRig();
    return { runtime: rig.runtime, close: rig.close };
  },
  {
    image: IMAGE,
    lacks: ["directory"],
    leftovers: (id) => rig.leftovers(id),
  },
);
