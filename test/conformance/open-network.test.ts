import { execFileSync } from "node:child_process";
import { testOpenNetwork } from "../../src/testing/index.ts";
import { makeLab } from "../network/support/lab.ts";
import { serveInLab } from "../network/support/serve.ts";
import { startDockerd } from "../runtimes/docker/support/dockerd.ts";
import { IMAGE, importImage } from "../runtimes/docker/support/open.ts";
import { makeStorage, testImage } from "../runtimes/podman/support/storage.ts";

/** The host's own address on Docker's default bridge. */
const BRIDGE = "172.17.0.1";

const isLong = process.env.WARREN_LONG === "1";
/** What a network stack alone could get wrong. What guards the network is the guest, whatever carries the packets. */
const ofStack = {
  why: "runs with WARREN_LONG=1",
  tests: [
    "reaches the outside by address and by name, and nothing internal",
    "reaches all of these without its guard, so that nothing else keeps it from them",
    "follows rules that change while it runs, with connections that are open",
    "is not reached by other sandboxes, nor by the engine's machine",
  ],
};

// The guest is the same, whatever program has started it.
for (const program of isLong ? ["crun", "runc"] : ["crun"]) {
  for (const uplink of ["slirp4netns", "pasta"]) {
    testOpenNetwork(
      `oci with ${program} and ${uplink}`,
      async () => {
        const lab = await makeLab();
        const options = ["--runtime", "oci", "--oci-program", program, "--uplink", uplink];
        const engine = await serveInLab(lab, options);
        return {
          api: engine.api,
          places: lab.places,
          close: async () => {
            await engine.close();
            await lab.end();
          },
        };
      },
      uplink === "pasta" && !isLong ? { only: ofStack } : {},
    );
  }
}

testOpenNetwork(
  "docker",
  async () => {
    const lab = await makeLab();
    // Its default bridge, and its rules in the lab's network namespace.
    const config = { bridge: undefined, iptables: true, "ip-forward": true };
    const daemon = await startDockerd({ where: lab.onHost, config });
    await importImage(daemon);
    const engine = await serveInLab(lab, ["--runtime", "docker"], { DOCKER_HOST: daemon.url });
    return {
      api: engine.api,
      // Docker's bridge has IPv4 only.
      places: {
        ...lab.places,
        outside6: undefined,
        internal: [...lab.places.internal, BRIDGE],
        hostLoopback: ["127.0.0.1"],
      },
      close: async () => {
        await engine.close();
        await daemon.end();
        await lab.end();
      },
    };
  },
  { defaults: { image: IMAGE } },
);

testOpenNetwork(
  "podman",
  async () => {
    const lab = await makeLab();
    // What its plugins keep of addresses is the machine's, not the storage's.
    for (const dir of ["/var/lib/cni", "/run/netns"]) {
      execFileSync("nsenter", [
        "-t",
        String(lab.hostPid),
        "-m",
        "sh",
        "-c",
        'mkdir -p "$1" && mount -t tmpfs none "$1"',
        "sh",
        dir,
      ]);
    }
    const storage = makeStorage();
    const { CONTAINERS_CONF = "", CONTAINERS_STORAGE_CONF = "" } = process.env;
    const engine = await serveInLab(lab, ["--runtime", "podman"], {
      CONTAINERS_CONF,
      CONTAINERS_STORAGE_CONF,
    });
    return {
      api: engine.api,
      places: { ...lab.places, outside6: undefined, hostLoopback: ["127.0.0.1"] },
      close: async () => {
        await engine.close();
        storage.remove();
        await lab.end();
      },
    };
  },
  { defaults: { image: testImage } },
);
