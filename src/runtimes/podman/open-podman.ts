import { WarrenError } from "../../contracts/errors.ts";
import type { Runtime, RuntimeLimits } from "../../contracts/runtime.ts";
import { lastWords } from "../../lib/last-words.ts";
import { run } from "../../lib/run.ts";
import { CPU_PERIOD_US, cpuQuotaUs } from "../common/cpu-limit.ts";
import { refuseWeaknesses } from "../common/known-weaknesses.ts";
import { probeGuard, SLIRP_NAME_SERVER } from "../common/open-network.ts";
import type { ApiClient } from "../containers/api-client.ts";
import type { Uplink } from "../containers/flavor.ts";
import { MAX_PROCESSES } from "../containers/limits.ts";
import { elsewhere, hostNameServers, type MissingNetworks, networksWithout } from "../containers/networks.ts";
import { openContainerRuntime } from "../containers/runtime.ts";
import type { RuntimeOptions } from "../factory.ts";
import { createAccounts } from "./accounts.ts";
import { openBuildService, sharedService } from "./build-service.ts";
import { capabilitiesOf } from "./capabilities.ts";
import { createRequest } from "./create-request.ts";
import type { Guards } from "./guards.ts";
import { idMapping } from "./id-mapping.ts";
import { type PodmanInfo, readInfo } from "./info.ts";
import { builderOf, probePodman, weakPrograms } from "./probe.ts";

/** Removing a sandbox's directory. */
const REMOVE_TIMEOUT_MS = 120_000;

export interface PodmanPlace {
  client: ApiClient;
  /** Of whoever runs it. */
  uid: number;
  guards: Guards;
  /** The guest for its machine, where that is not ours. */
  guestProgram?: Buffer;
  /** Of one on this machine: our directory, and the environment of the podman command. */
  here?: { dir: string; env: Record<string, string> };
  /** Lets go of the client, too. */
  close(): Promise<void>;
}

/** Podman, wherever it is. Whoever calls closes the place when this throws. */
export async function openPodman(options: RuntimeOptions, place: PodmanPlace): Promise<Runtime> {
  const { stateDir, ownerId, log, strict, onStep } = options;
  const { client, uid, guards, guestProgram, here, close } = place;
  const info = await readInfo(client);
  if (strict) for (const program of weakPrograms(info)) refuseWeaknesses(program);
  const missing = here && process.platform === "linux" ? await missingNetworks(info) : elsewhere;
  const accounts = createAccounts(client, ownerId);
  return await openContainerRuntime({
    stateDir,
    ownerId,
    log,
    ...(onStep ? { onStep } : {}),
    flavor: {
      name: "podman",
      client,
      capabilities: { ...capabilitiesOf(info), ...networksWithout(missing, strict === true) },
      ...(missing.open ? {} : { uplink: uplinkOf(info) }),
      ...guards,
      ...(guestProgram ? { guestProgram } : {}),
      createRequest: async (name, container) =>
        createRequest(name, container, await idMapping(container.spec, info, accounts.find)),
      updateLimits: (container, limits) => updateLimits(client, container, limits),
      async openBuildService() {
        const builder = builderOf(info);
        if (strict && builder) refuseWeaknesses(builder);
        return here ? await openBuildService({ ...here, main: client }) : sharedService(client);
      },
      // Of a rootless Podman's own, which alone can be the users of its files.
      ...(here && info.isRootless
        ? {
            removeTree: (path) => removeAsRoot(path, here.env),
            asOwner: { argv: ["podman", "unshare"], env: here.env },
          }
        : {}),
      probe: () => probePodman(client, uid),
      close,
    },
  });
}

async function missingNetworks(info: PodmanInfo): Promise<MissingNetworks> {
  const noStack = { why: "slirp4netns is not installed", fix: "apt-get install slirp4netns" };
  const open = info.isRootless && !info.hasSlirp4netns ? noStack : await probeGuard();
  return open ? { open } : {};
}

function uplinkOf({ isRootless }: PodmanInfo): Uplink {
  return isRootless
    ? { mode: "slirp4netns", nameServers: async () => [SLIRP_NAME_SERVER] }
    : { mode: "bridge", nameServers: hostNameServers };
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
