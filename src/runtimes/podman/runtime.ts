import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { createApiClient } from "../containers/api-client.ts";
import type { RuntimeFactory } from "../factory.ts";
import { endFormerBuilds } from "./build-service.ts";
import { serviceEnvironment } from "./environment.ts";
import { findService } from "./find-service.ts";
import { podmanGuards, thisMachine } from "./guards.ts";
import { openPodman } from "./open-podman.ts";
import { openService } from "./service.ts";

/** @throws WarrenError `runtime_unavailable` when there is no Podman that can be used */
export const openPodmanRuntime: RuntimeFactory = async (options) => {
  const { stateDir } = options;
  if (options.orb) return await (await import("./orbstack.ts")).openOrbStack(options, options.orb);
  const uid = process.getuid?.() ?? 0;
  const dir = join(stateDir, "podman");
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const found = await findService(process.env, uid);
  const env = await serviceEnvironment(process.env, uid, dir);
  await endFormerBuilds(dir);
  const service = found ? undefined : await openService({ dir, env });
  const client = createApiClient(
    found ?? (service as NonNullable<typeof service>).endpoint,
    service ? { revive: service.revive } : {},
  );
  const close = async () => {
    client.close();
    await service?.close();
  };
  try {
    return await openPodman(options, {
      client,
      uid,
      guards: await podmanGuards(thisMachine(dir)),
      here: { dir, env },
      close,
    });
  } catch (error) {
    await close();
    throw error;
  }
};
