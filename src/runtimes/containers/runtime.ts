import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { WarrenError } from "../../contracts/errors.ts";
import type {
  Capabilities,
  ProbeReport,
  Runtime,
  RuntimeLimits,
  RuntimeSandbox,
  RuntimeSpec,
} from "../../contracts/runtime.ts";
import { createGuestClient } from "../../guest/client.ts";
import type { Logger } from "../../lib/log.ts";
import { throwIfAborted } from "../../lib/signals.ts";
import { checkSpec } from "../common/check-spec.ts";
import { copyGuest } from "../common/guest-program.ts";
import { ContainerList, ContainerState, readAnswer } from "./answers.ts";
import { type ApiClient, EngineRefusal, engineFailure } from "./api-client.ts";
import { containerConfig, limitChanges } from "./container-config.ts";
import { createImages } from "./images.ts";
import { openSandboxDirs } from "./sandbox-dirs.ts";
import { readStats } from "./stats.ts";

/** How long a container may take from its start until its guest answers. */
const START_TIMEOUT_MS = 60_000;
const FIRST_RETRY_MS = 2;
const MAX_RETRY_MS = 50;
/** Beyond the grace that the guest was asked to give: it needs a moment to end itself. */
const SHUTDOWN_SLACK_MS = 500;
/** How long an engine may take to end what was killed. */
const KILL_TIMEOUT_MS = 30_000;

/** Where engines differ. */
export interface Flavor {
  readonly name: string;
  readonly client: ApiClient;
  readonly capabilities: Capabilities;
  probe(): Promise<ProbeReport>;
  /** What comes after `seccomp=`. */
  readonly seccomp: string;
  /** By setrlimit(2)'s names in lower case. */
  readonly rlimits: Readonly<Record<string, number>>;
  /** `HostConfig.UsernsMode` for this sandbox; undefined: the engine's default. */
  userNamespace?(spec: RuntimeSpec): Promise<string | undefined>;
  /** Lets go of helpers. */
  close(): Promise<void>;
}

export interface ContainerRuntimeOptions {
  stateDir: string;
  ownerId: string;
  log: Logger;
  flavor: Flavor;
}

/**
 * A runtime whose sandboxes are containers of an engine with a Docker-compatible API. The guest is their first process, so
 * that nothing but their lifecycle goes through the engine.
 */
export async function openContainerRuntime(options: ContainerRuntimeOptions): Promise<Runtime> {
  const { ownerId, flavor, log } = options;
  const { client, name } = flavor;
  const dirs = await openSandboxDirs(options.stateDir, name);
  const guestDir = await copyGuest(dirs.shared);
  // What is mounted read-only can get no mount point.
  await mkdir(join(guestDir, "run"), { recursive: true, mode: 0o755 });
  const images = createImages(client, name);
  const containerName = (id: string) => `warren-${ownerId}-${id}`;
  const pathOf = (id: string, action = "") => `/containers/${encodeURIComponent(containerName(id))}${action}`;
  const guestOf = (id: string) => createGuestClient(() => dirs.connect(id));

  const look = async (id: string): Promise<ContainerState | undefined> => {
    try {
      return readAnswer(ContainerState, await client.json({ path: pathOf(id, "/json") }));
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw engineFailure(error, `sandbox ${id} can't be looked at`);
    }
  };

  const inspect = async (id: string): Promise<RuntimeSandbox | undefined> => {
    const container = await look(id);
    if (!container) return (await dirs.exists(id)) ? { id, state: "created" } : undefined;
    const sandbox = sandboxOf(id, container);
    if (sandbox.exitCode === undefined) return sandbox;
    // Without a main command it is the guest's alone.
    const spec = await dirs.readSpec(id).catch(() => undefined);
    if (spec?.cmd) return sandbox;
    return { id, state: sandbox.state };
  };

  /** A refusal that says "it is so already" is success. */
  const act = async (id: string, action: string, what: string, query: Record<string, string> = {}) => {
    try {
      await client.json({ method: "POST", path: pathOf(id, action), query });
    } catch (error) {
      if (error instanceof EngineRefusal && (error.status === 304 || error.status === 409)) return;
      throw engineFailure(error, what, { 404: "sandbox_not_found" });
    }
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

  const stop = async (id: string, timeoutMs: number): Promise<void> => {
    const container = await look(id);
    if (!container || !lives(container)) return;
    if (isPaused(container)) {
      await act(id, "/unpause", `sandbox ${id} can't be thawed for its end`);
    }
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
      if ((await asked) && (await waitStopped(id, timeoutMs + SHUTDOWN_SLACK_MS))) return;
    }
    await act(id, "/kill", `sandbox ${id} can't be ended`, { signal: "SIGKILL" });
    if (await waitStopped(id, KILL_TIMEOUT_MS)) return;
    throw new WarrenError("runtime_failed", `sandbox ${id} was killed but does not end`);
  };

  /** Waits for the guest's first answer; says why when its container ends before. */
  const greet = async (id: string, signal: AbortSignal | undefined): Promise<void> => {
    const end = performance.now() + START_TIMEOUT_MS;
    for (let delay = FIRST_RETRY_MS; ; delay = Math.min(delay * 2, MAX_RETRY_MS)) {
      throwIfAborted(signal);
      try {
        await guestOf(id).hello();
        return;
      } catch (error) {
        if (!(error instanceof WarrenError && error.code === "guest_failed")) throw error;
        if (performance.now() > end) throw error;
      }
      const container = await look(id);
      if (!container || !lives(container)) {
        const { ExitCode: code, Error: words } = container?.State ?? {};
        throw new WarrenError(
          "runtime_failed",
          `the sandbox ended while it started${words ? `: ${words}` : ` (exit code ${code ?? "unknown"})`}`,
        );
      }
      await sleep(delay);
    }
  };

  const removeContainer = async (id: string): Promise<void> => {
    try {
      // With the volumes that the image declares, which have no name.
      const query = { force: true, v: true };
      await client.json({ method: "DELETE", path: pathOf(id), query });
    } catch (error) {
      if (!isMissing(error)) throw engineFailure(error, `sandbox ${id} can't be removed`);
    }
  };

  return {
    name,
    capabilities: flavor.capabilities,
    probe: flavor.probe,
    images,
    async create(spec, { signal } = {}) {
      checkSpec(spec);
      throwIfAborted(signal);
      await dirs.create(spec);
      try {
        const userNamespace = await flavor.userNamespace?.(spec);
        const body = containerConfig({
          spec,
          labels: { "warren.owner": ownerId, "warren.id": spec.id },
          guestDir,
          socketDir: dirs.socketDir(spec.id),
          volumeName: (volume) => `warren-${ownerId}-${volume}`,
          seccomp: flavor.seccomp,
          rlimits: flavor.rlimits,
          ...(userNamespace === undefined ? {} : { userNamespace }),
        });
        await client.json({
          method: "POST",
          path: "/containers/create",
          query: { name: containerName(spec.id) },
          body,
          ...(signal ? { signal } : {}),
        });
        throwIfAborted(signal);
      } catch (error) {
        await removeContainer(spec.id);
        await dirs.remove(spec.id);
        throw engineFailure(error, "the sandbox can't be created", {
          400: "invalid_request",
          404: "image_not_found",
        });
      }
    },
    async start(id, { signal } = {}) {
      throwIfAborted(signal);
      const spec = await dirs.readSpec(id);
      const before = await look(id);
      if (before && lives(before)) return { pid: before.State.Pid ?? 0 };
      try {
        await dirs.clearSocket(id);
        await client.json({ method: "POST", path: pathOf(id, "/start"), ...(signal ? { signal } : {}) });
        await greet(id, signal);
        if (spec.tmpfs.some((mount) => !mount.readonly && spec.workdir.startsWith(`${mount.path}/`))) {
          await guestOf(id).mkdir(spec.workdir, { parents: true });
        }
        throwIfAborted(signal);
        const container = await look(id);
        if (!container?.State.Pid)
          throw new WarrenError("runtime_failed", `sandbox ${id} ended while it started`);
        return { pid: container.State.Pid };
      } catch (error) {
        await act(id, "/kill", `sandbox ${id} can't be ended`, { signal: "SIGKILL" }).catch(() => {});
        await waitStopped(id, KILL_TIMEOUT_MS).catch(() => {});
        throw engineFailure(error, `sandbox ${id} can't be started`);
      }
    },
    stop: (id, { timeoutMs }) => stop(id, timeoutMs),
    async pause(id) {
      const container = await look(id);
      if (!container || !lives(container)) throw notRunning(id);
      if (isPaused(container)) return;
      await act(id, "/pause", `sandbox ${id} can't be paused`);
    },
    async resume(id) {
      const container = await look(id);
      if (!container || !lives(container)) throw notRunning(id);
      if (!isPaused(container)) return;
      await act(id, "/unpause", `sandbox ${id} can't be resumed`);
    },
    async updateLimits(id, limits: RuntimeLimits) {
      const spec = await dirs.readSpec(id);
      try {
        await client.json({ method: "POST", path: pathOf(id, "/update"), body: limitChanges(limits) });
        await dirs.writeSpec({ ...spec, limits });
      } catch (error) {
        throw engineFailure(error, `the limits of sandbox ${id} can't be changed`);
      }
    },
    async remove(id) {
      await removeContainer(id);
      await dirs.remove(id);
    },
    inspect,
    async list() {
      const filters = { label: [`warren.owner=${ownerId}`] };
      const answer = await client
        .json({ path: "/containers/json", query: { all: true, filters } })
        .catch((error: unknown) => {
          throw engineFailure(error, "the containers can't be listed");
        });
      const ids = new Set(await dirs.list());
      for (const { Labels } of readAnswer(ContainerList, answer)) {
        const id = Labels?.["warren.id"];
        if (id !== undefined) ids.add(id);
      }
      const all = await Promise.all([...ids].sort().map(inspect));
      return all.filter((sandbox) => sandbox !== undefined);
    },
    connect: (id) => dirs.connect(id),
    async stats(id) {
      const container = await look(id);
      if (!container || !lives(container)) throw notRunning(id);
      return await readStats(client, pathOf(id, "/stats"));
    },
    oomKills: () => undefined,
    async close() {
      client.close();
      await flavor.close();
    },
  };
}

function sandboxOf(id: string, container: ContainerState): RuntimeSandbox {
  const { Status: status, Pid: pid, ExitCode: exitCode } = container.State;
  if (status === "paused") return { id, state: "paused", ...(pid ? { pid } : {}) };
  if (lives(container)) return { id, state: "running", ...(pid ? { pid } : {}) };
  if (status === "created" || status === "configured" || status === "initialized")
    return { id, state: "created" };
  return { id, state: "stopped", ...(exitCode === undefined ? {} : { exitCode }) };
}

function isPaused({ State: { Paused, Status } }: ContainerState): boolean {
  return Paused === true || Status === "paused";
}

function lives({ State: { Status, Running } }: ContainerState): boolean {
  return Running === true || Status === "running" || Status === "paused" || Status === "stopping";
}

function isMissing(error: unknown): boolean {
  return error instanceof EngineRefusal && error.status === 404;
}

function notRunning(id: string): WarrenError {
  return new WarrenError("sandbox_wrong_state", `sandbox ${id} is not running`);
}
