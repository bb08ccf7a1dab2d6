import { availableParallelism } from "node:os";
import type { CallOptions, ChangeOptions } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { Runtime, RuntimeSpec } from "../contracts/runtime.ts";
import {
  CreateSandbox,
  ExtendRequest,
  type PruneResult,
  type SandboxInfo,
  UpdateSandbox,
} from "../contracts/sandbox.ts";
import type { RestoreSnapshot } from "../contracts/snapshots.ts";
import { parseInput } from "../lib/parse.ts";
import { cancelled, linkSignals, throwIfAborted } from "../lib/signals.ts";
import { createTurnstile } from "../lib/turnstile.ts";
import { type Admitted, admit, changedLimits, chooseRuntime } from "./admission.ts";
import {
  announce,
  asWarrenError,
  type Core,
  currentInfo,
  notRunning,
  refuseWhenClosing,
  runtimeOf,
} from "./core.ts";
import { type CredentialStore, credentialInfos } from "./credentials/store.ts";
import { auditNetwork } from "./egress/policy-audit.ts";
import { newSandboxId } from "./ids.ts";
import type { LogCollector } from "./logs/collector.ts";
import { orFree, refuseTaken } from "./ports/admit.ts";
import type { PortManager } from "./ports/manager.ts";
import type { SandboxRecord } from "./record.ts";
import { isUnavailable } from "./runtimes.ts";
import { auditSecrets } from "./secrets/audit.ts";
import { type SecretKeeper, withoutValue } from "./secrets/keeper.ts";
import { AUTHORITY_FILE } from "./secrets/trust.ts";
import type { ServiceManager } from "./services/manager.ts";
import { readmit } from "./snapshots/readmit.ts";
import type { SnapshotRecord } from "./snapshots/record.ts";
import { type GivenByEngine, runtimeSpec } from "./spec.ts";
import { connectAgent } from "./ssh-agent/agent-socket.ts";
import { nameTaken } from "./store.ts";
import type { Supervisor } from "./supervisor.ts";
import { ensureVolumes } from "./volumes.ts";

/** Longest grace of a stop. A caller that wants more has hung. */
const MAX_GRACE_MS = 10 * 60_000;

/**
 * Sandboxes that are started at one time. A start keeps processors busy and seldom waits, so more only take time from each
 * other and from everybody's requests.
 */
const STARTS_AT_ONCE = Math.max(4, 2 * availableParallelism());

/** The life of sandboxes: each step is stored, then done, then told, and is the only one of its sandbox. */
export interface Lifecycle {
  create(input: CreateSandbox, options: CallOptions & ChangeOptions): Promise<SandboxInfo>;
  /** A sandbox that is what the snapshot's was. Its runtime is ready. */
  restore(
    snapshot: SnapshotRecord,
    request: RestoreSnapshot,
    options: CallOptions & ChangeOptions,
  ): Promise<SandboxInfo>;
  start(wanted: string): Promise<SandboxInfo>;
  stop(wanted: string, graceMs: number): Promise<SandboxInfo>;
  pause(wanted: string): Promise<SandboxInfo>;
  resume(wanted: string): Promise<SandboxInfo>;
  update(wanted: string, changes: UpdateSandbox): Promise<SandboxInfo>;
  remove(wanted: string): Promise<void>;
  prune(runtime?: string): Promise<PruneResult>;
  extend(wanted: string, timeoutS: number): SandboxInfo;
  /** Removes the sandbox if its time has come, and is still come when its turn is there. */
  expire(id: string): Promise<void>;
}

export function createLifecycle(
  core: Core,
  supervisor: Supervisor,
  logs: LogCollector,
  ports: PortManager,
  secrets: SecretKeeper,
  credentials: CredentialStore,
  services: ServiceManager,
): Lifecycle {
  const { table, mutex, config, clock, log } = core;
  const starts = createTurnstile(STARTS_AT_ONCE);

  return {
    async create(input, options) {
      const { signal } = options;
      throwIfAborted(signal);
      const request = parseInput(CreateSandbox, input);
      if (request.ssh_agent) (await connectAgent(request.ssh_agent.socket)).destroy();
      const name = chooseRuntime(request.runtime, core.runtimes);
      const runtime = core.runtimes.ready(name) ?? (await open(name, signal));
      return await make(admit(request, runtime, config), options);
    },

    async restore(snapshot, request, options) {
      const { ssh_agent: agent } = snapshot.settings.request;
      if (agent) (await connectAgent(agent.socket)).destroy();
      throwIfAborted(options.signal);
      const runtime = core.runtimes.opened(snapshot.runtime);
      return await make(readmit(snapshot, request, runtime, config), options);
    },

    start: (wanted) =>
      inTurn(wanted, async (record) => {
        if (record.state === "running") return currentInfo(core, record);
        if (record.spec === undefined || record.state === "paused") throw notRunning(record);
        const { id } = record;
        const runtime = runtimeOf(core, record);
        const wasLost = record.state === "error";
        table.update(id, {
          state: "starting",
          // Should it come up without us, it is not the start before.
          startedAt: undefined,
          exitCode: undefined,
          oomKilled: undefined,
          error: undefined,
          stoppedAt: undefined,
        });
        try {
          // Of a sandbox in error something may still be alive.
          if (wasLost) await runtime.stop(id, { timeoutMs: 0 });
          const { pid } = await starts.run(async () => {
            const started = await runtime.start(id);
            secrets.forget(id);
            services.forget(id);
            try {
              await services.prepare(record);
              await secrets.prepare(record, record.spec);
            } catch (error) {
              await runtime.stop(id, { timeoutMs: 0 });
              throw error;
            }
            return started;
          });
          await ports.open(id);
          const running = table.update(id, { state: "running", pid, startedAt: clock.now() });
          supervisor.watch(running);
          return announce(core, "started", running);
        } catch (cause) {
          const error = asWarrenError(cause, `sandbox ${id} could not be started`);
          announce(
            core,
            "failed",
            table.update(id, { state: "error", error: error.message, pid: undefined }),
          );
          throw error;
        }
      }),

    stop: (wanted, graceMs) => {
      if (!(graceMs >= 0 && graceMs <= MAX_GRACE_MS)) {
        throw new WarrenError("invalid_request", `the grace of a stop is 0 to ${MAX_GRACE_MS} ms`);
      }
      return inTurn(wanted, async (record) =>
        record.state === "stopped"
          ? currentInfo(core, record)
          : announce(core, "stopped", await supervisor.stop(record, graceMs)),
      );
    },

    pause: (wanted) =>
      inTurn(wanted, async (record) => {
        if (record.state === "paused") return currentInfo(core, record);
        if (record.state !== "running") throw notRunning(record);
        const { id } = record;
        const runtime = runtimeOf(core, record);
        if (!runtime.capabilities.pause) {
          throw new WarrenError("unsupported", `the runtime ${runtime.name} can't pause sandboxes here`, {
            hint: "stop it instead; see warren doctor",
          });
        }
        // Stored first: what would go inside from here on is refused, instead of waiting for a frozen guest.
        const paused = table.update(id, { state: "paused" });
        try {
          await runtime.pause(id);
        } catch (cause) {
          // What was told of it meanwhile waits for this step, and then finds it running.
          table.update(id, { state: "running" });
          throw asWarrenError(cause, `sandbox ${id} could not be paused`);
        }
        return announce(core, "paused", paused);
      }),

    resume: (wanted) =>
      inTurn(wanted, async (record) => {
        if (record.state === "running") return currentInfo(core, record);
        if (record.state !== "paused") throw notRunning(record);
        try {
          await runtimeOf(core, record).resume(record.id);
        } catch (cause) {
          throw asWarrenError(cause, `sandbox ${record.id} could not be resumed`);
        }
        const running = table.update(record.id, { state: "running" });
        supervisor.watch(running);
        return announce(core, "resumed", running);
      }),

    update: (wanted, input) => {
      const changes = parseInput(UpdateSandbox, input);
      return inTurn(wanted, async (record) => {
        const { id, spec } = record;
        if (spec === undefined) throw notRunning(record);
        const runtime = runtimeOf(core, record);
        const limits = changedLimits(changes, spec, runtime, config);
        const updated = table.update(id, { spec: { ...spec, limits } });
        try {
          await runtime.updateLimits(id, limits);
        } catch (cause) {
          table.update(id, { spec });
          throw asWarrenError(cause, `the limits of sandbox ${id} could not be changed`);
        }
        return announce(core, "updated", updated);
      });
    },

    remove: (wanted) => (table.isSetAside(wanted) ? removeUnreadable(wanted) : inTurn(wanted, remove)),

    async prune(wanted) {
      const name = chooseRuntime(wanted, core.runtimes);
      if (!core.runtimes.ready(name)) await open(name);
      const stopped = table.all().filter(({ runtime, state }) => runtime === name && state === "stopped");
      const outcomes = await Promise.all(stopped.map(({ id }) => mutex.run(id, () => pruneOne(id))));
      return {
        removed: outcomes.flatMap(({ removed = [] }) => removed),
        failed: outcomes.flatMap(({ failed = [] }) => failed),
      };
    },

    extend(wanted, timeoutS) {
      const { timeout } = parseInput(ExtendRequest, { timeout: timeoutS });
      const record = table.resolve(wanted);
      if (record.state === "creating" || record.state === "removing") throw notRunning(record);
      return announce(core, "extended", table.update(record.id, { expiresAt: expiry(timeout) }));
    },

    async expire(id) {
      const runtime = table.get(id)?.runtime;
      if (runtime === undefined) return;
      await open(runtime);
      await mutex.run(id, async () => {
        const record = table.get(id);
        if (record?.expiresAt === undefined || record.expiresAt > clock.now()) return;
        log.info({ sandbox: id }, "a sandbox expired");
        await remove(record);
      });
    },
  };

  async function make(admitted: Admitted, { signal, by }: CallOptions & ChangeOptions): Promise<SandboxInfo> {
    const { runtime, origin } = admitted;
    const { record, stored } = reserve(admitted);
    const { id } = record;
    return await mutex.run(id, async () => {
      try {
        await stored;
        auditNetwork(core, id, "create", admitted.network, by);
        if (origin) {
          const entry = { type: "snapshot", sandbox: id, action: "restore" } as const;
          core.audit.write({ ...entry, snapshot: origin.snapshot, ...(by ? { by } : {}) });
        }
        if (record.secrets) {
          if (origin) await secrets.copy(origin.snapshot, id);
          else await secrets.store(id, admitted.secrets, []);
          auditSecrets(core, id, { action: "create", by, secrets: record.secrets });
        }
        if (record.credentials) {
          if (origin) await credentials.copy(origin.snapshot, id);
          else await credentials.put(id, admitted.credentials);
          const entry = { type: "credentials", sandbox: id, action: "create" } as const;
          core.audit.write({ ...entry, ...(by ? { by } : {}), credentials: record.credentials });
        }
        return await build(id, admitted, signal);
      } catch (cause) {
        core.runtimes.note(runtime.name, cause);
        await undo(id, runtime);
        if (signal?.aborted) throw cancelled(signal);
        throw asWarrenError(cause, `sandbox ${id} could not be created`);
      }
    });
  }

  /** Runs a step when all earlier ones of the sandbox are done. It may be gone by then. */
  async function inTurn<T>(wanted: string, step: (record: SandboxRecord) => Promise<T>): Promise<T> {
    const { id, runtime } = table.resolve(wanted);
    if (!core.runtimes.ready(runtime)) await open(runtime);
    try {
      return await mutex.run(id, () => step(table.require(id)));
    } catch (error) {
      core.runtimes.note(runtime, error);
      throw error;
    }
  }

  /** Before a turn, never in one: a runtime that is opened brings its sandboxes in order, each in its turn. */
  async function open(name: string, signal?: AbortSignal): Promise<Runtime> {
    const runtime = await core.runtimes.use(name, signal);
    refuseWhenClosing(core);
    return runtime;
  }

  /** Stores the new sandbox; from here on it counts, and its name is taken. Never waits, so nobody comes between. */
  function reserve(admitted: Admitted): { record: SandboxRecord; stored: Promise<void> } {
    if (table.size >= config.maxSandboxes) {
      throw new WarrenError("too_many_sandboxes", `there are already ${table.size} sandboxes`, {
        hint: "remove one (warren rm), or raise the limit (warren serve --max-sandboxes)",
      });
    }
    const { request, origin } = admitted;
    let id = newSandboxId();
    while (table.get(id) || request.name === id) id = newSandboxId();
    if (request.name !== undefined && table.get(request.name)) throw nameTaken(request.name);
    const ports = origin ? orFree(admitted.ports, table.all()) : admitted.ports;
    refuseTaken(ports, table.all());
    const told = origin?.credentials ?? credentialInfos(admitted.credentials, clock.now());
    const secretInfos = origin?.secrets ?? admitted.secrets.map(withoutValue);
    const record: SandboxRecord = {
      id,
      name: request.name,
      runtime: admitted.runtime.name,
      state: "creating",
      request,
      createdAt: clock.now(),
      ...(admitted.network.rules ? { network: admitted.network.rules } : {}),
      ...(secretInfos.length > 0 ? { secrets: secretInfos } : {}),
      ...(told.length > 0 ? { credentials: told } : {}),
      ...(ports.length > 0 ? { ports } : {}),
      ...(origin ? { snapshot: origin.snapshot } : {}),
    };
    const stored = table.add(record);
    stored.catch(() => {}); // its turn, in which it is awaited, may come later
    return { record, stored };
  }

  async function build(id: string, admitted: Admitted, signal?: AbortSignal): Promise<SandboxInfo> {
    const { runtime, request, origin } = admitted;
    const options = signal === undefined ? {} : { signal };
    // First: it is quick, and a port that can't be had costs no pull of an image.
    const opened = await ports.claim(table.require(id), { orFree: origin !== undefined });
    let image = origin?.image ?? (await ensureImage(runtime, request.image, signal));
    await ensureVolumes(core, runtime, admitted.mounts);
    const bringUp = async (spec: RuntimeSpec, isLastTry: boolean) => {
      throwIfAborted(signal);
      try {
        await runtime.create(spec, options);
      } catch (error) {
        if (!isLastTry && error instanceof WarrenError && error.code === "image_not_found") return undefined;
        throw error;
      }
      throwIfAborted(signal);
      const started = await runtime.start(id, options);
      throwIfAborted(signal);
      await services.prepare(table.require(id));
      await secrets.prepare(table.require(id), spec);
      return started;
    };
    let spec = runtimeSpec(id, admitted, image, given(table.require(id)));
    let started = await starts.run(() => bringUp(spec, origin !== undefined));
    if (!started) {
      // The image was removed since it was looked for. Looking again is not a part of the turn: it may be a pull.
      image = await ensureImage(runtime, request.image, signal);
      spec = runtimeSpec(id, admitted, image, given(table.require(id)));
      started = await starts.run(() => bringUp(spec, true));
    }
    throwIfAborted(signal);
    // The first that is stored of it: what is found as `creating` is removed, whatever it was to be.
    const running = table.update(id, {
      state: "running",
      spec,
      pid: started?.pid,
      startedAt: clock.now(),
      ...(opened.length > 0 ? { ports: opened } : {}),
      expiresAt: expiry(admitted.timeoutS ?? -1),
    });
    supervisor.watch(running);
    return announce(core, "created", running);
  }

  /** What the engine itself gives a sandbox, beside the image and the request. */
  function given(record: SandboxRecord): GivenByEngine {
    return {
      env: { ...services.environment(record), ...secrets.environment(record) },
      // The one that is written last.
      mainAfter: record.secrets?.length ? AUTHORITY_FILE : services.mainAfter(record),
    };
  }

  /** A pull may take minutes: it ends when the engine closes. The short steps after it are waited for. */
  async function ensureImage(runtime: Runtime, reference: string, signal: AbortSignal | undefined) {
    using either = linkSignals(signal, core.closing);
    return await runtime.images.ensure(reference, { signal: either.signal });
  }

  /** Takes back a create. What can't be taken back now stays visible, in error, and can be removed again. */
  async function undo(id: string, runtime: Runtime): Promise<void> {
    ports.close(id);
    services.forget(id);
    try {
      await runtime.remove(id).catch((error: unknown) => {
        if (!isUnavailable(error)) throw error;
        // What may be left is in no record then, and removed as such when the runtime can be reached again.
        core.runtimes.note(runtime.name, error);
      });
      await logs.remove(id);
      await secrets.remove(id);
      await credentials.remove(id);
      table.delete(id);
    } catch (error) {
      log.error({ err: error, sandbox: id }, "a failed create could not be undone");
      table.update(id, { state: "error", error: "its creation failed and could not be undone" });
    }
  }

  async function remove(record: SandboxRecord): Promise<void> {
    const { id } = record;
    const runtime = runtimeOf(core, record);
    const removing = table.update(id, { state: "removing" });
    try {
      if (record.state === "running" && config.removeGraceMs > 0) {
        await runtime.stop(id, { timeoutMs: config.removeGraceMs });
      }
      await supervisor.unwatch(id);
      await runtime.remove(id);
      await logs.remove(id);
      if (record.secrets) await secrets.remove(id);
      if (record.credentials) await credentials.remove(id);
    } catch (cause) {
      const error = asWarrenError(cause, `sandbox ${id} could not be removed`);
      announce(core, "failed", table.update(id, { state: "error", error: error.message }));
      throw error;
    }
    table.delete(id);
    announce(core, "removed", { ...removing, pid: undefined });
  }

  /** Removes it if it is stopped still: somebody else may have started or removed it meanwhile. */
  async function pruneOne(id: string): Promise<Partial<PruneResult>> {
    const record = table.get(id);
    if (record?.state !== "stopped") return {};
    try {
      await remove(record);
      return { removed: [id] };
    } catch (error) {
      core.runtimes.note(record.runtime, error);
      log.error({ err: error, sandbox: id }, "a stopped sandbox could not be removed");
      return { failed: [{ id, error: (error as Error).message }] };
    }
  }

  /** Removes what a record that can't be read stood for, in whichever runtime it is. */
  async function removeUnreadable(id: string): Promise<void> {
    const runtimes = await Promise.all(core.runtimes.inUse().map((name) => open(name)));
    return mutex.run(id, async () => {
      for (const runtime of runtimes) await runtime.remove(id);
      await logs.remove(id);
      await secrets.remove(id);
      await credentials.remove(id);
      table.forgetSetAside(id);
    });
  }

  /** Seconds from now as a moment; undefined for never. */
  function expiry(timeoutS: number): number | undefined {
    return timeoutS < 0 ? undefined : clock.now() + timeoutS * 1000;
  }
}
