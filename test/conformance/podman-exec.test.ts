import { silentLogger } from "../../src/lib/log.ts";
import { createApiClient } from "../../src/runtimes/containers/api-client.ts";
import { podmanGuards, thisMachine } from "../../src/runtimes/podman/guards.ts";
import { openPodman } from "../../src/runtimes/podman/open-podman.ts";
import { openService } from "../../src/runtimes/podman/service.ts";
import { testRuntime } from "../../src/testing/index.ts";
import { elsewhere } from "../runtimes/podman/support/elsewhere.ts";
import { testImage } from "../runtimes/podman/support/storage.ts";
import { onPodman } from "./support/podman.ts";
import { shortRuntime } from "./support/short-form.ts";

// Podman behind a command, as one of another machine is: no directory and no socket is shared with it.
testRuntime(
  "podman, by a command",
  () =>
    onPodman(async (stateDir) => {
      const env = Object.fromEntries(
        Object.entries(process.env).filter((pair): pair is [string, string] => pair[1] !== undefined),
      );
      const service = await openService({ dir: stateDir, env });
      if (service.endpoint.kind !== "unix") throw new Error("not at a socket");
      const url = `--url=unix://${service.endpoint.path}`;
      const client = createApiClient({ kind: "command", argv: ["podman", url, "system", "dial-stdio"] });
      return await openPodman(
        { stateDir, ownerId: "t2", log: silentLogger },
        {
          client,
          uid: 0,
          guards: await podmanGuards(thisMachine(stateDir)),
          close: async () => {
            client.close();
            await service.close();
          },
        },
      );
    }),
  {
    image: testImage,
    lacks: ["directory"],
    deviations: elsewhere,
    ...shortRuntime,
  },
);
