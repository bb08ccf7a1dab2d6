import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { makeDir } from "../../lib/files.ts";
import { capabilities as linuxCapabilities } from "../common/guest-program.ts";
import { ociSeccomp } from "../common/seccomp.ts";
import { createApiClient } from "../containers/api-client.ts";
import { openContainerRuntime } from "../containers/runtime.ts";
import type { RuntimeFactory } from "../factory.ts";
import { podmanCapabilities } from "./capabilities.ts";
import { startService } from "./service.ts";

export const openPodmanRuntime: RuntimeFactory = async ({ stateDir, ownerId, log }) => {
  const dir = join(stateDir, "podman");
  const service = await startService(dir);
  await makeDir(dir, 0o700).catch(() => {});
  const seccomp = join(dir, "seccomp.json");
  await writeFile(seccomp, JSON.stringify(ociSeccomp(linuxCapabilities)), { mode: 0o600 });
  return openContainerRuntime({
    stateDir,
    ownerId,
    log,
    flavor: {
      name: "podman",
      client: createApiClient(service.endpoint),
      capabilities: podmanCapabilities,
      seccomp,
      rlimits: { nofile: 1024, nproc: 4096, core: 1 },
      probe: async () => ({ runtime: "podman", usable: true, findings: [] }),
      close: service.close,
    },
  });
};
