import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import type { RuntimeLimits, RuntimeSpec } from "../../contracts/runtime.ts";
import { lastWords } from "../../lib/last-words.ts";
import { run } from "../../lib/run.ts";
import { CPU_PERIOD_US, cpuQuotaUs } from "../common/cpu-limit.ts";
import { refuseWeaknesses } from "../common/known-weaknesses.ts";
import { type ApiClient, createApiClient } from "../containers/api-client.ts";
import { MAX_PROCESSES } from "../containers/limits.ts";
import { openContainerRuntime } from "../containers/runtime.ts";
import type { RuntimeFactory } from "../factory.ts";
import { createAccounts } from "./accounts.ts";
import { capabilitiesOf } from "./capabilities.ts";
import { createRequest } from "./create-request.ts";
import { serviceEnvironment } from "./environment.ts";
import { findService } from "./find-service.ts";
import { podmanGuards } from "./guards.ts";
import { type PodmanInfo, readInfo } from "./info.ts";
import { probePodman, weakPrograms } from "./probe.ts";
import { openService } from "./service.ts";

/** Removing a sandbox's directory. */
const REMOVE_TIMEOUT_MS = 120_000;

/** @throws WarrenError `runtime_unavailable` when there is no Podman that can be used */
export const openPodmanRuntime: RuntimeFactory = async (options) => {
  const { stateDir, ownerId, log, strict, onStep } = options;
  const uid = process.getuid?.() ?? 0;
  const dir = join(stateDir, "podman");
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const found = await findService(process.env, uid);
  const env = await serviceEnvironment(process.env, uid, dir);
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
    const info = await readInfo(client);
    if (strict) for (const program of weakPrograms(info)) refuseWeaknesses(program);
    // Of a rootless Podman's own, which alone can be their users.
    const removeTree = info.isRootless ? (path: string) => removeAsRoot(path, env) : undefined;
    const accounts = createAccounts(client, ownerId);
    return await openContainerRuntime({
      stateDir,
      ownerId,
      log,
      ...(onStep ? { onStep } : {}),
      flavor: {
        name: "podman",
        client,
        capabilities: capabilitiesOf(info),
        ...(await podmanGuards(dir)),
        createRequest,
        ...(info.isRootless ? { userNamespace: (spec) => userNamespace(spec, info, accounts.find) } : {}),
        updateLimits: (container, limits) => updateLimits(client, container, limits),
        ...(removeTree ? { removeTree } : {}),
        probe: () => probePodman(client, uid),
        close,
      },
    });
  } catch (error) {
    await close();
    throw error;
  }
};

/**
 * By default root inside is the user who runs Podman, and so owns what is bound. Where the commands are somebody else's, that
 * one is the user, so that what they make in a project stays its owner's.
 */
async function userNamespace(
  { user, image, mounts }: RuntimeSpec,
  { version }: PodmanInfo,
  find: (image: string, user: string) => Promise<{ uid: number; gid: number }>,
): Promise<string | undefined> {
  if (!user || !mounts.some((mount) => mount.type === "bind")) return undefined;
  const { uid, gid } = await find(image.id, user);
  if (uid === 0) return undefined;
  const [major = 0, minor = 0] = version.split(".").map(Number);
  if (major < 4 || (major === 4 && minor < 3)) {
    throw new WarrenError(
      "unsupported",
      `Podman ${version} can't give what is bound to another user than root`,
      {
        hint: "use Podman 4.3 or newer, or run as root inside",
      },
    );
  }
  return `keep-id:uid=${uid},gid=${gid}`;
}

/** Of a container that runs on another machine: here its cgroup is written to. */
async function updateLimits(client: ApiClient, container: string, limits: RuntimeLimits): Promise<void> {
  const { memoryBytes, cpuNano, pids } = limits;
  await client.json({
    method: "POST",
    path: `/libpod/containers/${encodeURIComponent(container)}/update`,
    body: {
      memory: { limit: memoryBytes || -1, swap: memoryBytes || -1 },
      cpu: { period: CPU_PERIOD_US, quota: cpuNano > 0 ? cpuQuotaUs(cpuNano) : -1 },
      pids: { limit: pids || MAX_PROCESSES },
    },
  });
}

async function removeAsRoot(path: string, env: Record<string, string>): Promise<void> {
  const result = await run("podman", ["unshare", "rm", "-rf", "--", path], {
    env,
    timeoutMs: REMOVE_TIMEOUT_MS,
  });
  if (result.code === 0) return;
  throw new WarrenError("runtime_failed", `${path} can't be removed: ${lastWords(result.stderr)}`);
}
