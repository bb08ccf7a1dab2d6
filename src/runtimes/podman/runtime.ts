import { join } from "node:path";
import { makeDir } from "../../lib/files.ts";
import { createApiClient } from "../containers/api-client.ts";
import { openContainerRuntime } from "../containers/runtime.ts";
import type { RuntimeFactory } from "../factory.ts";
import { podmanCapabilities } from "./capabilities.ts";
import { podmanGuards } from "./guards.ts";
import { startService } from "./service.ts";

export const openPodmanRuntime: RuntimeFactory = async ({ stateDir, ownerId, log }) => {
  const dir = join(stateDir, "podman");
  const service = await startService(dir);
  await makeDir(dir, 0o700).catch(() => {});
  return openContainerRuntime({
    stateDir,
    ownerId,
    log,
    flavor: {
      name: "podman",
      client: createApiClient(service.endpoint),
      capabilities: podmanCapabilities,
      ...(await podmanGuards(dir)),
      probe: async () => ({ runtime: "podman", usable: true, findings: [] }),
      close: service.close,
    },
  });
};
