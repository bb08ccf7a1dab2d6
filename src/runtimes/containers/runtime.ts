import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { WarrenError } from "../../contracts/errors.ts";
import type { Capabilities, Runtime, RuntimeLimits, RuntimeSandbox } from "../../contracts/runtime.ts";
import { noStep, type OnStep } from "../../contracts/steps.ts";
import { createGuestClient } from "../../guest/client.ts";
import { noSpace } from "../../lib/files.ts";
import type { Logger } from "../../lib/log.ts";
import { throwIfAborted } from "../../lib/signals.ts";
import { readCgroupHost } from "../common/cgroup.ts";
import { checkSpec } from "../common/check-spec.ts";
import { copyGuest, GUEST_PROGRAM, readGuest } from "../common/guest-program.ts";
import { captureFinding, probeNetworkCapture } from "../common/network-capture.ts";
import { openFinding, requireNetwork } from "../common/open-network.ts";
import type { ContainerState } from "./answers.ts";
import { EngineRefusal, engineFailure } from "./api-client.ts";
import { createRequest, GUEST_SOCKET_PATH } from "./container-config.ts";
import { createContainers, isPaused, lives } from "./containers.ts";
import { openExecCarrier } from "./exec-carrier.ts";
import type { ContainerOptions, Flavor } from "./flavor.ts";
import { createGuestVolume } from "./guest-volume.ts";
import { createImages } from "./images/images.ts";
import { limitChanges, refuseLimits } from "./limits.ts";
import { createLocalGroups, noLocalGroups } from "./local-groups.ts";
import { createOpenRules } from "./open-rules.ts";
import { createReach } from "./reach.ts";
import { openSandboxDirs } from "./sandbox-dirs.ts";
import { openHolds } from "./snapshots/holds.ts";
import { createSnapshots } from "./snapshots/snapshots.ts";
import { requireSources } from "./sources.ts";
import { readStats } from "./stats.ts";
import { createVolumes } from "./volumes.ts";

/** How long a container may take from its start until its guest answers. */
const START_TIMEOUT_MS = 60_000;
/** How long one that runs may leave its socket unanswered until the other way to it is tried. */
const SOCKET_PATIENCE_MS = 5_000;
const FIRST_RETRY_MS = 2;
const MAX_RETRY_MS = 50;
/** Beyond the grace that the guest was asked to give: it needs a moment to end itself. */
const SHUTDOWN_SLACK_MS = 500;
/** How long an engine may take to end what was killed. */
const KILL_TIMEOUT_MS = 30_000;

export interface ContainerRuntimeOptions {
  stateDir: string;
  ownerId: string;
  log: Logger;
  flavor: Flavor;
  onStep?: OnStep;
}

/**
 * A runtime whose sandboxes are containers of an engine with a Docker-compatible API. The guest is their first process, so
 * that nothing but their lifecycle goes through the engine.
 */
export async function openContainerRuntime(options: ContainerRuntimeOptions): Promise<Runtime> {
  const { ownerId, flavor, log, onStep = noStep } = options;
  const { client, name } = flavor;
  const dirs = await openSandboxDirs(options.stateDir, name, flavor.removeTree);
  const groups = process.platform === "linux" ? createLocalGroups(await readCgroupHost()) : noLocalGroups;
  const images = createImages({ flavor, ownerId, log });
  const containers = createContainers(client, ownerId, groups.note);
  const { look, pathOf } = containers;
  const volumes = createVolumes({ flavor, ownerId, removeSandbox: (id) => remove(id) });
  const reach = createReach({
    kind: flavor.reach ?? ((await dirs.needsExec()) || client.endpoint.kind !== "unix" ? "exec" : "socket"),
    connectSocket: dirs.connect,
    openCarrier: (id) => openExecCarrier(client, pathOf(id), [GUEST_PROGRAM, "--mux", GUEST_SOCKET_PATH]),
    onExec: dirs.noteExec,
  });
  // Of another machine's kernel a sandbox's guest knows.
  const isHere = reach.kind === "socket";
  const capabilities: Capabilities = {
    ...flavor.capabilities,
    networkCapture: isHere ? (await probeNetworkCapture()).works : flavor.capabilities.networkCapture,
  };
  const guestDir = reach.kind === "socket" ? await prepareGuestDir(dirs.shared) : "";
  const guestVolume = createGuestVolume({
    client,
    ownerId,
    log,
    guest: flavor.guestProgram ?? (await readGuest()),
  });
  const guestOf = (id: string) => createGuestClient(() => reach.connect(id));
  const { prepare, refresh, ...openRules } = createOpenRules({ dirs, containers, log, onStep });
  const holds = await openHolds({ dirs, containers, log });
  const snapshots = createSnapshots({
    flavor,
    capabilities,
    ownerId,
    containers,
    dirs,
    holds,
    log,
    onStep,
  });
  await containers.sweep();
  await snapshots.sweep();
  onStep("container.swept");

  const inspect = async (id: string): Promise<RuntimeSandbox | undefined> => {
    const container = await holds.release(id, await look(id));
    if (!container) return (await dirs.exists(id)) ? { id, state: "created" } : undefined;
    const sandbox = sandboxOf(id, container);
    if (sandbox.exitCode === undefined) return sandbox;
    // Without a main command it is the guest's alone.
    const spec = await dirs.readSpec(id).catch(() => undefined);
    return spec?.cmd ? sandbox : { id, state: sandbox.state };
  };

  const requireRunning = async (id: string): Promise<ContainerState> => {
    const container = await look(id);
    if (container && lives(container)) return container;
    throw new WarrenError("sandbox_wrong_state", `sandbox ${id} is not running`);
  };

  const waitStopped = async (id: string, timeoutMs: number): Promise<boolean> => {
    const end = performance.now() + timeoutMs;
    for (let delay = FIRST_RETRY_MS; ; delay = Math.min(delay * 2, MAX_RETRY_MS)) {
      const container = await look(id);
      if (!container || !lives(container)) return true;
      if (performance.now() > end) return false;
      await sleep(delay);
    }
  };

  const kill = async (id: string): Promise<void> => {
    try {
      await containers.act(id, "/kill", { signal: "SIGKILL" });
    } catch (error) {
      // It ended by itself in this moment, or the engine has only given up waiting for its end.
      if (await waitStopped(id, error instanceof EngineRefusal ? KILL_TIMEOUT_MS : 0)) return;
      throw engineFailure(error, `sandbox ${id} can't be ended`);
    }
    if (await waitStopped(id, KILL_TIMEOUT_MS)) return;
    throw new WarrenError("runtime_failed", `sandbox ${id} was killed but does not end`);
  };

  const stop = async (id: string, timeoutMs: number): Promise<void> => {
    const container = await look(id);
    if (!container || !lives(container)) return;
    // What is frozen can't end, whatever kills it.
    if (isPaused(container)) await resume(id);
    if (timeoutMs > 0) {
      const asked = guestOf(id)
        .shutdown(timeoutMs)
        .then(
          () => true,
          (error: unknown) => {
            log.debug({ err: error, sandbox: id }, "a guest did not take its shutdown");
            return false;
          },
        );
      if (await asked) {
        onStep("container.asked-to-end");
        if (await waitStopped(id, timeoutMs + SHUTDOWN_SLACK_MS)) return;
      }
    }
    await kill(id);
    onStep("container.killed");
  };

  const resume = async (id: string): Promise<void> => {
    await containers.act(id, "/unpause").catch(async (error: unknown) => {
      const now = await look(id);
      if (!now || !isPaused(now)) return;
      throw engineFailure(error, `sandbox ${id} can't be resumed`);
    });
    onStep("container.thawed");
  };

  /** Waits for the guest's first answer; says why when its container ends before. */
  const greet = async (id: string, signal: AbortSignal | undefined): Promise<void> => {
    const end = performance.now() + START_TIMEOUT_MS;
    let patienceEnds = performance.now() + SOCKET_PATIENCE_MS;
    for (let delay = FIRST_RETRY_MS; ; delay = Math.min(delay * 2, MAX_RETRY_MS)) {
      throwIfAborted(signal);
      try {
        await guestOf(id).hello();
        return;
      } catch (error) {
        if (!(error instanceof WarrenError && error.code === "guest_failed")) throw error;
        if (performance.now() > end) throw error;
      }
      if (delay === MAX_RETRY_MS) await requireStarted(id);
      if (reach.kind === "socket" && performance.now() > patienceEnds) {
        if (await reach.tryExec(id)) return;
        patienceEnds = performance.now() + SOCKET_PATIENCE_MS;
      }
      await sleep(delay);
    }
  };

  const requireStarted = async (id: string): Promise<ContainerState> => {
    const container = await look(id);
    if (container && lives(container) && container.State.Pid) return container;
    const { ExitCode: code, Error: words } = container?.State ?? {};
    throw new WarrenError(
      "runtime_failed",
      `the sandbox ended while it started${words ? `: ${words}` : ` (exit code ${code ?? "unknown"})`}`,
    );
  };

  /** What a container runs with is what it was created with, in the engine's eyes; and no engine knows all of our limits. */
  const applyLimits = async (id: string, limits: RuntimeLimits): Promise<void> => {
    if (groups.mayChange(id)) return await groups.apply(id, limits);
    if (limits.memoryHighBytes) {
      throw new WarrenError(
        "unsupported",
        `${name} can't enforce a soft memory limit, and we may not change the sandbox's cgroup`,
      );
    }
    const body = limitChanges(limits);
    await (flavor.updateLimits?.(containers.nameOf(id), limits) ??
      client.json({ method: "POST", path: pathOf(id, "/update"), body }));
  };

  /** Of a create that failed. What can't be taken away now stays listed, so that it is removed later. */
  const undoCreate = async (id: string): Promise<void> => {
    try {
      await containers.remove(id);
      await dirs.remove(id);
    } catch (error) {
      log.warn({ err: error, sandbox: id }, "what a failed create left could not be removed yet");
    }
  };

  const remove = async (id: string): Promise<void> => {
    // The engine alone would kill it, which does not end what is frozen.
    const container = await look(id);
    if (container && isPaused(container)) await resume(id);
    reach.forget(id);
    await containers.remove(id);
    onStep("container.removed");
    await dirs.remove(id);
    onStep("container.removed-directory");
    if (container?.Image) await snapshots.left(container.Image);
  };

  return {
    name,
    capabilities,
    async probe() {
      const report = await flavor.probe();
      const capture = isHere ? [captureFinding(await probeNetworkCapture())] : [];
      return { ...report, findings: [...report.findings, ...capture, openFinding(capabilities)] };
    },
    images,
    volumes,
    ...(capabilities.snapshots ? { snapshots } : {}),
    async create(spec, { signal } = {}) {
      checkSpec(spec);
      requireNetwork(spec, capabilities);
      refuseLimits(name, capabilities, spec.limits);
      if (client.endpoint.kind === "unix") await requireSources(spec.mounts);
      await volumes.require(spec.mounts);
      throwIfAborted(signal);
      await dirs.create(spec).catch((error: unknown) => {
        throw noSpace(error);
      });
      onStep("container.made-directory");
      try {
        const name = containers.nameOf(spec.id);
        const nameServers = spec.network === "open" ? ((await flavor.uplink?.nameServers()) ?? []) : [];
        const guardFile = reach.kind === "socket" ? await prepare(spec, nameServers) : undefined;
        const container: ContainerOptions = {
          spec,
          nameServers,
          labels: { "warren.owner": ownerId, "warren.id": spec.id },
          guest:
            reach.kind === "socket"
              ? {
                  type: "bind",
                  dir: guestDir,
                  socketDir: dirs.socketDir(spec.id),
                  ownFiles: dirs.ownFiles(spec),
                  ...(guardFile === undefined ? {} : { guardFile }),
                }
              : { type: "volume", name: await guestVolume.ensure(spec.image.id) },
          volumeName: volumes.engineName,
          flavor,
        };
        // Not to be given up half way: the engine would go on, and nobody would know when it is done.
        await client.json(await (flavor.createRequest ?? createRequest)(name, container));
        onStep("container.created");
        throwIfAborted(signal);
      } catch (error) {
        await undoCreate(spec.id);
        const codes = { 400: "invalid_request", 404: "image_not_found" } as const;
        const isGone = error instanceof EngineRefusal && error.status === 404;
        const hint = isGone ? "warren image ls and warren snapshot ls show what is there" : undefined;
        throw engineFailure(error, "the sandbox can't be created", codes, hint);
      }
    },
    async start(id, { signal } = {}) {
      throwIfAborted(signal);
      const spec = await dirs.readSpec(id);
      const before = await look(id);
      if (before && lives(before)) return { pid: before.State.Pid ?? 0 };
      refuseLimits(name, capabilities, spec.limits);
      if (client.endpoint.kind === "unix") await requireSources(spec.mounts);
      try {
        await dirs.clearSocket(id);
        await refresh(id);
        onStep("container.cleared-socket");
        await client.json({ method: "POST", path: pathOf(id, "/start") });
        onStep("container.started");
        const container = await requireStarted(id);
        if (spec.limits.memoryHighBytes || (await dirs.limitsWereChanged(id))) {
          await applyLimits(id, spec.limits);
        }
        await greet(id, signal);
        onStep("container.greeted");
        if (spec.workdir !== "/") await guestOf(id).mkdir(spec.workdir, { parents: true });
        throwIfAborted(signal);
        return { pid: container.State.Pid ?? 0 };
      } catch (error) {
        await kill(id).catch((cause: unknown) => {
          log.debug({ err: cause, sandbox: id }, "what did not start could not be ended");
        });
        throw engineFailure(error, `sandbox ${id} can't be started`);
      }
    },
    async stop(id, { timeoutMs }) {
      await stop(id, timeoutMs);
    },
    async pause(id) {
      if (!capabilities.pause) throw new WarrenError("unsupported", `${name} can't pause sandboxes here`);
      const before = await requireRunning(id);
      await holds.forget(id);
      if (isPaused(before)) return;
      await containers.act(id, "/pause").catch((error: unknown) => {
        throw engineFailure(error, `sandbox ${id} can't be paused`);
      });
      onStep("container.froze");
    },
    async resume(id) {
      if (isPaused(await requireRunning(id))) await resume(id);
      await holds.forget(id);
    },
    async updateLimits(id, limits) {
      const before = await dirs.readSpec(id);
      checkSpec({ ...before, limits });
      refuseLimits(name, capabilities, limits);
      const container = await look(id);
      await dirs.changeLimits(id, limits).catch((error: unknown) => {
        throw noSpace(error);
      });
      onStep("container.rewrote-spec");
      if (!container || !lives(container)) return;
      try {
        await applyLimits(id, limits);
        onStep("container.changed");
      } catch (error) {
        await dirs.changeLimits(id, before.limits);
        await applyLimits(id, before.limits).catch((cause: unknown) => {
          log.warn({ err: cause, sandbox: id }, "the limits before a failed change could not be put back");
        });
        throw engineFailure(error, `the limits of sandbox ${id} can't be changed`);
      }
    },
    ...openRules,
    remove,
    inspect,
    async list() {
      const ids = new Set([...(await dirs.list()), ...(await containers.list())]);
      const all = await Promise.all([...ids].sort().map(inspect));
      return all.filter((sandbox) => sandbox !== undefined);
    },
    connect: (id) => reach.connect(id),
    async stats(id) {
      const container = await requireRunning(id);
      return (await groups.stats(id, container)) ?? (await readStats(client, pathOf(id, "/stats")));
    },
    oomKills: groups.oomKills,
    async close() {
      await images.close();
      reach.close();
      if (reach.kind === "exec") await guestVolume.prune();
      client.close();
      await flavor.close();
    },
  };
}

async function prepareGuestDir(shared: string): Promise<string> {
  const dir = await copyGuest(shared);
  // What is mounted read-only can get no mount point.
  await mkdir(join(dir, "run"), { recursive: true, mode: 0o755 });
  await writeFile(join(dir, "guard"), "", { flag: "wx" }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "EEXIST") throw error;
  });
  return dir;
}

function sandboxOf(id: string, container: ContainerState): RuntimeSandbox {
  const { Status: status, Pid: pid, ExitCode: exitCode } = container.State;
  if (isPaused(container)) return { id, state: "paused", ...(pid ? { pid } : {}) };
  if (lives(container)) return { id, state: "running", ...(pid ? { pid } : {}) };
  if (status === "created" || status === "configured" || status === "initialized")
    return { id, state: "created" };
  // Podman says -1 when it could not learn it.
  return { id, state: "stopped", ...(exitCode === undefined || exitCode < 0 ? {} : { exitCode }) };
}
