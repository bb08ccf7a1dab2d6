import { closeSync, constants, openSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import type { Duplex } from "node:stream";
import { isDeepStrictEqual } from "node:util";
import { WarrenError } from "../../contracts/errors.ts";
import type { Capabilities, Runtime, RuntimeSandbox, RuntimeSpec } from "../../contracts/runtime.ts";
import { noStep } from "../../contracts/steps.ts";
import { createGuestClient } from "../../guest/client.ts";
import type { GuestClient } from "../../guest/types.ts";
import { isGone, noSpace, statOrUndefined } from "../../lib/files.ts";
import { createKeyedMutex, type KeyedMutex } from "../../lib/keyed-mutex.ts";
import { once } from "../../lib/once.ts";
import { checkLimits, createCgroups, readCgroupHost } from "../common/cgroup.ts";
import { checkSpec } from "../common/check-spec.ts";
import { liveGuest, networkBytes } from "../common/guest-process.ts";
import { capabilities as linuxCapabilities } from "../common/guest-program.ts";
import { connectGuest } from "../common/guest-socket.ts";
import { createLiveLimits } from "../common/live-limits.ts";
import { probeNetworkCapture } from "../common/network-capture.ts";
import { hostNetworkIsWeak, requireNetwork } from "../common/open-network.ts";
import { createPayloadGroups } from "../common/payload-groups.ts";
import { readHardLimits } from "../common/process-limits.ts";
import { processNumbers } from "../common/process-numbers.ts";
import { isSandboxId } from "../common/sandbox-id.ts";
import { prepareSeccomp } from "../common/seccomp.ts";
import type { RuntimeFactory, RuntimeOptions } from "../factory.ts";
import { createBuildBoxes, isBuildId } from "./build-box.ts";
import { leastCapabilities, ociCapabilities } from "./capabilities.ts";
import { createFreezer } from "./freezer.ts";
import { chooseStage, makeSharedFiles } from "./host-facts.ts";
import { openIdRanges, sharedIdRange } from "./id-ranges.ts";
import { createImages } from "./images/images.ts";
import { createLauncher } from "./launcher-client.ts";
import { openLayout } from "./layout.ts";
import { createLifecycle } from "./lifecycle.ts";
import { createOpenRules } from "./open-rules.ts";
import { createOutside } from "./outside.ts";
import { createProber, isProbeId } from "./probe.ts";
import { findProgramNow, ociPrograms } from "./programs.ts";
import { recover } from "./recover.ts";
import { refusingRuntime } from "./refusing-runtime.ts";
import { createSandboxStore, type Own } from "./sandbox-store.ts";
import { createSnapshots } from "./snapshots/snapshots.ts";
import {
  currentUser,
  FIRST_SUBORDINATE,
  findSubordinateIds,
  isRootTheUser,
  type SubordinateIds,
} from "./subordinate-ids.ts";
import { createTrash } from "./trash.ts";
import { enterUserGroups, userCgroups } from "./user-cgroups.ts";
import { createVolumes } from "./volumes.ts";

/** Beyond the grace that the guest was asked to give: it needs a moment to end itself. */
const SHUTDOWN_SLACK_MS = 250;
/** The launcher's longest wait. */
const MAX_STOP_MS = 3_600_000;

/**
 * The embedded runtime: sandboxes are containers of crun or runc, without a daemon. Root can run it, and ordinary users with
 * subordinate ids; for others `probe` says what is missing and everything else is refused.
 * @throws WarrenError `invalid_request` when the state directory can't be used
 */
export const openOciRuntime: RuntimeFactory = async (options) => {
  if (process.getuid?.() === 0) return open(options, undefined);
  const found = await findSubordinateIds();
  return "ids" in found ? open(options, found.ids) : refusingRuntime(found.missing);
};

/** `userIds`: of the ordinary user that we are; undefined for root. */
async function open(options: RuntimeOptions, userIds: SubordinateIds | undefined): Promise<Runtime> {
  const { ownerId, log, onStep = noStep } = options;
  const layout = await openLayout(options.stateDir);
  onStep("oci.laid-out");
  const stateDir = dirname(layout.root);
  const [cgroupHost, hardLimits, shared, ids, stage, capture] = await Promise.all([
    userIds ? readCgroupHost().then((host) => userCgroups(host, currentUser())) : readCgroupHost(),
    readHardLimits(),
    makeSharedFiles(layout.shared, onStep),
    userIds ? sharedIdRange(FIRST_SUBORDINATE) : openIdRanges({ owner: stateDir, onStep }),
    chooseStage([stateDir]),
    probeNetworkCapture(),
  ]);
  const launcher = createLauncher({ log, ids: userIds, lockFile: layout.launcherLock, onStep });
  const own: Own = async (paths, id) => {
    if (userIds) await launcher.own(paths, FIRST_SUBORDINATE + id);
    else if (id !== 0) await launcher.own(paths, id);
  };
  const cgroups = createCgroups(cgroupHost, ownerId);
  const freezer = createFreezer(cgroupHost, cgroups);
  const payloadGroups = createPayloadGroups(cgroupHost, cgroups);
  const liveLimits = createLiveLimits(cgroupHost, cgroups, payloadGroups);
  const store = createSandboxStore(layout, own, onStep);
  const trash = createTrash({ dir: layout.trash, launcher, log, onStep });
  const lifecycle = createLifecycle({
    ownerId,
    layout,
    launcher,
    cgroups,
    payloadGroups,
    freezer,
    ids,
    stage,
    hardLimits,
    swapController: cgroupHost.swapController,
    hasCgroups: cgroupHost.mounts.length > 0,
    isRootless: userIds !== undefined,
    enterGroups: (id) => enterUserGroups(cgroupHost, cgroups.dirs(id)),
    shared,
    onStep,
  });
  const turns = createKeyedMutex();
  const isAsUser = (spec: RuntimeSpec) => isRootTheUser(spec, userIds !== undefined);
  const snapshots = createSnapshots({
    layout,
    launcher,
    store,
    freezer,
    discard: trash.discard,
    isRunning: async (id) => (await liveGuest(layout.sandbox(id).guestPid)) !== undefined,
    isRootTheUser: async (id) => isAsUser((await store.read(id)).spec),
    onStep,
  });
  const volumes = createVolumes({
    dir: layout.volumes,
    launcher,
    discard: trash.discard,
    onStep,
    users: store.usersOfVolume,
    removeSandbox: (id) => turns.run(id, () => remove(id)),
  });
  const outside = createOutside({ launcher, stateDir, volumePath: volumes.path });
  const openBuildBox = createBuildBoxes({
    layout,
    lifecycle,
    store,
    discard: trash.discard,
    limits: cgroupHost.limits,
    image: (id, signal) => images.lower(id, { asUser: false, signal }),
    binds: (id) => images.binds(id),
    program: () => prober.program(),
    uplink: () => prober.uplink(),
    guestOf: (id) => guestOf(id),
  });
  const images = createImages({
    launcher,
    dir: layout.images,
    stateDir,
    discard: trash.discard,
    onStep,
    openBuildBox,
    own,
    copiesDirectories: userIds !== undefined,
    host: {
      emptyDir: shared.emptyDir,
      emptyFile: shared.emptyFile,
      used: async () => new Set([...(await store.lowers()), ...(await snapshots.lowers())]),
    },
  });

  const getSeccomp = once(() => prepareSeccomp(linuxCapabilities));
  const prober = createProber({
    options,
    layout,
    isRootless: userIds !== undefined,
    store,
    lifecycle,
    cgroupHost,
    getSeccomp,
    discard: trash.discard,
    guestDir: shared.guestDir,
    greet: async (id) => void (await guestOf(id).hello()),
  });

  // What the last engine was starting when it was killed comes up first, or fails: then it is seen below.
  await launcher.ready().catch(() => {}); // why it can't be started is told to whoever needs it
  const relayed = await recover({ layout, lifecycle, store, trash, images, volumes, snapshots, ids, onStep });
  // These take a while and the first create needs them, so they begin now; who needs them sees their failure.
  getSeccomp().catch(() => {});
  images.ensure("host").catch(() => {});
  prober.program().catch(() => {});

  // A socket's path may be 107 bytes long (unix(7)); by way of this descriptor it is short wherever the state directory is.
  const sandboxesFd = openSync(layout.sandboxes, constants.O_RDONLY | constants.O_DIRECTORY);
  const connect = async (id: string): Promise<Duplex> => {
    const path = join(`/proc/self/fd/${sandboxesFd}`, relative(layout.sandboxes, layout.sandbox(id).socket));
    const connection = await connectGuest(path, id);
    // A relay takes connections until it has heard of the guest's end.
    if (!relayed.has(id) || (await liveGuest(layout.sandbox(id).guestPid))) return connection;
    connection.destroy();
    throw new WarrenError("guest_failed", `the guest of sandbox ${id} has gone`);
  };
  const guestOf = (id: string) => createGuestClient(() => connect(id));

  const inspect = async (id: string): Promise<RuntimeSandbox | undefined> => {
    if (!isSandboxId(id)) return undefined;
    const paths = layout.sandbox(id);
    const guest = await liveGuest(paths.guestPid);
    if (guest) {
      const isPaused = freezer.isFrozen(id) && !snapshots.isHeldStill(id);
      return { id, state: isPaused ? "paused" : "running", pid: guest.pid };
    }
    if ((await store.dirs(id)).length > 0) {
      return { id, state: (await statOrUndefined(paths.config)) ? "stopped" : "created" };
    }
    if (!lifecycle.hasRemains(id)) return undefined;
    return { id, state: cgroups.hasMembers(id) ? "running" : "stopped" };
  };

  const stop = async (id: string, timeoutMs: number): Promise<void> => {
    const guest = await liveGuest(layout.sandbox(id).guestPid);
    if (guest && timeoutMs > 0) {
      await freezer.thaw(id);
      const asked = guestOf(id)
        .shutdown(timeoutMs)
        .then(
          () => {
            onStep("oci.asked-to-end");
            return true;
          },
          () => false, // a guest that doesn't answer is killed
        );
      const waitMs = Math.min(timeoutMs + SHUTDOWN_SLACK_MS, MAX_STOP_MS);
      const gone = lifecycle.waitGone(guest, waitMs).catch(() => false);
      await Promise.race([gone, asked.then((ok) => (ok ? gone : undefined))]);
    }
    if (guest || lifecycle.hasRemains(id)) await lifecycle.finish(id);
  };

  const requireGuest = async (id: string): Promise<void> => {
    if (await liveGuest(layout.sandbox(id).guestPid)) return;
    throw new WarrenError("sandbox_wrong_state", `sandbox ${id} is not running`);
  };

  const remove = async (id: string): Promise<void> => {
    await stop(id, 0);
    relayed.delete(id);
    for (const dir of await store.dirs(id)) await trash.discard(dir);
    await snapshots.reclaim();
  };

  /** Looked up each time, as isolation is. */
  const missingNetworks = (): NonNullable<Capabilities["networkMissing"]> => {
    const open = prober.networkMissing();
    return { ...(open ? { open } : {}), ...(options.strict ? { host: hostNetworkIsWeak } : {}) };
  };
  const runtime: Runtime = {
    name: "oci",
    volumes,
    snapshots: snapshots.store,
    capabilities: {
      ...ociCapabilities,
      networkCapture: capture.works,
      limits: cgroupHost.limits,
      ...(cgroupHost.refusal ? { limitsMissing: cgroupHost.refusal } : {}),
      pause: freezer.isAvailable,
      get networkModes() {
        return ociCapabilities.networkModes.filter((mode) => !(mode in missingNetworks()));
      },
      get networkMissing() {
        return missingNetworks();
      },
      // Looked up each time, so that what is installed meanwhile works without a new engine.
      get isolation() {
        return !userIds && findProgramNow("runsc") ? ociCapabilities.isolation : leastCapabilities.isolation;
      },
    },
    probe: prober.probe,
    images: { ensure: images.ensure, store: images.store },
    async create(spec, { signal } = {}) {
      checkSpec(spec);
      checkLimits(cgroupHost, spec.limits);
      requireNetwork(spec, runtime.capabilities);
      await prober.program(spec.isolation);
      if (spec.network === "open") await prober.uplink();
      using _volumes = await volumes.hold(volumesOf(spec));
      await outside.check(spec.mounts);
      const asUser = isAsUser(spec);
      await using snapshot = await snapshots.source(spec.image.id, { asUser, signal });
      const base = snapshot?.base ?? spec.image.id;
      using _image = images.hold(base);
      const lower = snapshot?.lower ?? (await images.lower(base, { asUser, signal }));
      if (signal?.aborted) throw new WarrenError("cancelled", "the call was cancelled");
      for (const dir of await store.dirs(spec.id)) {
        if (dir !== layout.sandbox(spec.id).dir) await trash.discard(dir);
      }
      try {
        await store.create(
          { spec, lower, ...(snapshot ? { base, layers: snapshot.layers } : {}) },
          { asUser },
        );
        onStep("oci.created");
      } catch (error) {
        if (!(error instanceof WarrenError && error.code === "sandbox_wrong_state")) {
          for (const dir of await store.dirs(spec.id)) await trash.discard(dir);
        }
        throw noSpace(error);
      }
    },
    async start(id, { signal } = {}) {
      const paths = layout.sandbox(id);
      const running = await liveGuest(paths.guestPid);
      if (running) return { pid: running.pid };
      const sandbox = await store.read(id);
      checkLimits(cgroupHost, sandbox.spec.limits);
      requireNetwork(sandbox.spec, runtime.capabilities);
      await outside.check(sandbox.spec.mounts);
      if (lifecycle.hasRemains(id)) await lifecycle.finish(id);
      const [program, compiled, binds, uplink] = await Promise.all([
        prober.program(sandbox.spec.isolation),
        getSeccomp(),
        images.binds(sandbox.base ?? sandbox.spec.image.id),
        sandbox.spec.network === "open" ? prober.uplink() : undefined,
      ]);
      if (signal?.aborted) throw new WarrenError("cancelled", "the call was cancelled");
      const guest = await lifecycle.start({
        program,
        seccomp: compiled,
        sandbox,
        binds,
        outside: outside.mounts(sandbox.spec),
        paths,
        ...(uplink ? { uplink } : {}),
      });
      if (sandbox.spec.isolation === "gvisor") relayed.add(id);
      try {
        await guestOf(id).hello();
        onStep("oci.greeted");
        if (sandbox.spec.isolation === "gvisor") await makeWorkdirInMount(guestOf(id), sandbox.spec);
        if (sandbox.spec.limits.memoryHighBytes) await liveLimits.applyMemoryHigh(id, sandbox.spec.limits);
        if (signal?.aborted) throw new WarrenError("cancelled", "the call was cancelled");
      } catch (error) {
        await lifecycle.finish(id);
        throw error;
      }
      onStep("oci.started");
      return { pid: guest.pid };
    },
    async stop(id, { timeoutMs }) {
      if ((await store.dirs(id)).length === 0 && !lifecycle.hasRemains(id)) {
        throw new WarrenError("sandbox_not_found", `there is no sandbox ${id}`);
      }
      await stop(id, timeoutMs);
    },
    async pause(id) {
      if (!freezer.isAvailable) {
        throw new WarrenError("unsupported", "this host can't pause sandboxes", {
          hint: "mount the freezer: mount -t cgroup -o freezer cgroup /sys/fs/cgroup/freezer",
        });
      }
      await requireGuest(id);
      await freezer.freeze(id);
      onStep("oci.froze");
    },
    async resume(id) {
      await requireGuest(id);
      await freezer.thaw(id);
      onStep("oci.thawed");
    },
    async updateLimits(id, limits) {
      const before = await store.read(id);
      const after = { ...before, spec: { ...before.spec, limits } };
      checkSpec(after.spec);
      checkLimits(cgroupHost, limits);
      if (!isDeepStrictEqual(before.spec.limits, limits)) {
        await store.rewrite(after).catch((error: unknown) => {
          throw noSpace(error);
        });
      }
      if (!(await liveGuest(layout.sandbox(id).guestPid))) return;
      try {
        await liveLimits.apply(id, after.spec);
        onStep("oci.limited");
      } catch (error) {
        await store.rewrite(before);
        await liveLimits.apply(id, before.spec).catch((cause: unknown) => {
          log.warn({ err: cause, sandbox: id }, "the limits before a failed change could not be put back");
        });
        if (error instanceof WarrenError) throw error;
        throw new WarrenError("runtime_failed", `the limits of sandbox ${id} can't be changed`, {
          cause: error,
        });
      }
    },
    ...createOpenRules({ store, layout, log, onStep }),
    async remove(id) {
      if (isSandboxId(id)) await remove(id);
    },
    inspect,
    async list() {
      const found = new Set(await store.list());
      for (const id of await cgroups.list()) found.add(id);
      for (const name of ociPrograms) {
        for (const id of await readdirOrEmpty(layout.runtimeRoot(name))) if (isSandboxId(id)) found.add(id);
      }
      const all = await Promise.all(
        [...found]
          .filter((id) => !isProbeId(id) && !isBuildId(id))
          .sort()
          .map(inspect),
      );
      return all.filter((sandbox) => sandbox !== undefined);
    },
    connect,
    async stats(id) {
      const guest = await liveGuest(layout.sandbox(id).guestPid);
      if (!guest) throw new WarrenError("sandbox_wrong_state", `sandbox ${id} is not running`);
      const [numbers, network] = await Promise.all([
        cgroupHost.mounts.length > 0 ? cgroups.stats(id) : processNumbers(guest.pid),
        networkBytes(guest.pid),
      ]);
      return { ...numbers, ...network };
    },
    oomKills: (id) => (isSandboxId(id) ? cgroups.oomKills(id) : undefined),
    async close() {
      await snapshots.close();
      await images.close();
      await prober.idle();
      await trash.idle();
      onStep("oci.idle");
      await launcher.close();
      closeSync(sandboxesFd);
      await ids.close();
      onStep("oci.released-ids");
      await cgroups.removeParent();
      onStep("oci.closed");
    },
  };
  return inTurns(turns, runtime);
}

/** The engine does one thing at a time to a sandbox, but a volume that is removed by force takes sandboxes with it. */
function inTurns(turns: KeyedMutex, runtime: Runtime): Runtime {
  const { snapshots } = runtime;
  return {
    ...runtime,
    ...(snapshots
      ? {
          snapshots: {
            ...snapshots,
            create: (id, ...rest) => turns.run(id, () => snapshots.create(id, ...rest)),
          },
        }
      : {}),
    create: (spec, options) => turns.run(spec.id, () => runtime.create(spec, options)),
    start: (id, options) => turns.run(id, () => runtime.start(id, options)),
    stop: (id, options) => turns.run(id, () => runtime.stop(id, options)),
    pause: (id) => turns.run(id, () => runtime.pause(id)),
    resume: (id) => turns.run(id, () => runtime.resume(id)),
    updateLimits: (id, limits) => turns.run(id, () => runtime.updateLimits(id, limits)),
    updateReach: (id, reach) => turns.run(id, () => runtime.updateReach(id, reach)),
    remove: (id) => turns.run(id, () => runtime.remove(id)),
  };
}

const volumesOf = (spec: RuntimeSpec): string[] =>
  spec.mounts.filter(({ type }) => type === "volume").map(({ source }) => source);

/** The launcher makes the working directory on the root filesystem, where what gVisor's kernel mounts may hide it. */
async function makeWorkdirInMount(guest: GuestClient, spec: RuntimeSpec): Promise<void> {
  const writable = [
    ...spec.tmpfs.map(({ path, readonly }) => ({ target: path, readonly })),
    ...spec.mounts,
  ].filter(({ readonly }) => !readonly);
  if (!writable.some(({ target }) => spec.workdir.startsWith(`${target}/`))) return;
  await guest.mkdir(spec.workdir, { parents: true });
}

async function readdirOrEmpty(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if (isGone(error)) return [];
    throw error;
  }
}
