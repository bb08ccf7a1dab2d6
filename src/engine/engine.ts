import { setMaxListeners } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import type { SandboxApi } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";
import { LogRequest } from "../contracts/logs.ts";
import type { Runtime } from "../contracts/runtime.ts";
import { RuntimeChoice } from "../contracts/sandbox.ts";
import { noStep, type OnStep } from "../contracts/steps.ts";
import { buildInfo } from "../lib/build-info.ts";
import { createKeyedMutex } from "../lib/keyed-mutex.ts";
import type { Logger } from "../lib/log.ts";
import { parseInput } from "../lib/parse.ts";
import type { Presets } from "../lib/presets/presets.ts";
import { openAudit } from "./audit/audit.ts";
import { type Clock, systemClock } from "./clock.ts";
import { defaultConfig, type EngineConfig } from "./config.ts";
import { type Core, currentInfo, refuseWhenClosing } from "./core.ts";
import { createCredentials } from "./credentials/credentials.ts";
import { createCredentialService } from "./credentials/service.ts";
import { createCredentialStore } from "./credentials/store.ts";
import { createEgressManager } from "./egress/manager.ts";
import type { Resolve } from "./egress/resolver.ts";
import { streamEvents } from "./event-stream.ts";
import { createEventBus, type SandboxEvents } from "./events.ts";
import { createExecs } from "./exec.ts";
import { featuresWith } from "./features.ts";
import { createFiles } from "./files.ts";
import { createHealthCheck } from "./health.ts";
import { createImages } from "./images.ts";
import { createLifecycle } from "./lifecycle.ts";
import { lockStateDir } from "./lock.ts";
import { createLogCollector } from "./logs/collector.ts";
import { streamLog } from "./logs/stream.ts";
import { createPortManager } from "./ports/manager.ts";
import { createReaper } from "./reaper.ts";
import { reconcile } from "./reconcile.ts";
import { createRuntimes, type RuntimeOpener } from "./runtimes.ts";
import { createSecretKeeper } from "./secrets/keeper.ts";
import { createSecrets } from "./secrets/secrets.ts";
import { createVault } from "./secrets/vault.ts";
import { createServiceManager } from "./services/manager.ts";
import { createSnapshots } from "./snapshots/snapshots.ts";
import { createSnapshotTable } from "./snapshots/table.ts";
import { createSshAgentService } from "./ssh-agent/service.ts";
import { createStatsReader } from "./stats.ts";
import { openStore } from "./store.ts";
import { createSupervisor } from "./supervisor.ts";
import { createTable } from "./table.ts";
import { createVolumes } from "./volumes.ts";
import { waitForEnd } from "./wait.ts";

export interface EngineOptions {
  /** Absolute path of a directory that exists. One engine at a time uses it. */
  stateDir: string;
  /**
   * By name. The engine closes them when it closes. A function opens one when it is needed, and not before the state directory
   * is locked: a runtime that opens tidies up after an earlier engine, which must not happen beside one that lives.
   */
  runtimes: Readonly<Record<string, Runtime | RuntimeOpener>>;
  /** Key of `runtimes`. It is opened at once, and the engine does not open without it. */
  defaultRuntime: string;
  log: Logger;
  clock?: Clock;
  config?: Partial<EngineConfig>;
  /** For tests that end an engine at a certain step. */
  onStep?: OnStep;
  /** What the presets of network rules stand for. Default: what the package managers' documentation says. */
  presets?: Presets;
  /** How names are looked up that network rules allow. Default: as this host does. */
  resolve?: Resolve;
}

export interface Engine extends SandboxApi {
  /** As `events`, but at once, and of everything. */
  readonly bus: SandboxEvents;
  /** A raw connection to a TCP port inside, published or not. Throws `port_unreachable`. */
  dial(id: string, port: number): Promise<Duplex>;
  /**
   * Ends commands that still run, waits for lifecycle steps that have begun, and lets go of everything. Sandboxes keep
   * running unless `stopSandboxes`. Every call after it throws `shutting_down`.
   */
  close(options?: { stopSandboxes?: boolean }): Promise<void>;
}

/**
 * Opens the state directory, brings its sandboxes in order, and serves.
 * @throws WarrenError `engine_locked` when another engine has it.
 */
export async function openEngine(options: EngineOptions): Promise<Engine> {
  using undo = new DisposableList();
  undo.add(lockStateDir(options.stateDir));
  options.onStep?.("open.locked");
  const { runtimes, defaultRuntime } = options;
  const given = Object.hasOwn(runtimes, defaultRuntime) ? runtimes[defaultRuntime] : undefined;
  if (given === undefined) {
    throw new WarrenError("invalid_request", `the default runtime ${defaultRuntime} is not configured`);
  }
  const first = typeof given === "function" ? await given() : given;
  try {
    return await openLocked({ ...options, runtimes: { ...runtimes, [defaultRuntime]: first } }, undo);
  } catch (error) {
    // Only what we opened: the others are their maker's until we have opened.
    if (typeof given === "function") await first.close();
    throw error;
  }
}

async function openLocked(options: EngineOptions, undo: DisposableList): Promise<Engine> {
  const { log, onStep = noStep } = options;
  const store = openStore(options.stateDir, log, options.clock);
  undo.add({ [Symbol.dispose]: () => store.close() });
  onStep("open.migrated");
  const audit = openAudit({ dir: options.stateDir, clock: options.clock ?? systemClock, log });
  undo.add({ [Symbol.dispose]: () => audit.close() });

  const closing = new AbortController();
  // Every call under way listens to it, so there is no number of listeners that would mean a leak.
  setMaxListeners(0, closing.signal);
  const clock = options.clock ?? systemClock;
  const runtimes = createRuntimes({
    ...options,
    clock,
    closing: closing.signal,
    async bringInOrder(runtime, again) {
      await reconcile(core, supervisor, ports, runtime, again);
      await snapshots.bringInOrder(runtime);
    },
  });
  const core: Core = {
    config: { ...defaultConfig(), ...options.config },
    clock,
    log,
    runtimes,
    snapshots: createSnapshotTable(store.snapshots, onStep),
    table: createTable(store, onStep),
    events: createEventBus(log),
    mutex: createKeyedMutex(),
    audit,
    closing: closing.signal,
    onStep,
  };
  const logs = createLogCollector(core, options.stateDir);
  const vault = createVault(options.stateDir, onStep);
  const secrets = createSecretKeeper(core, vault);
  const credentials = createCredentialStore(core, vault);
  const egress = createEgressManager(core, secrets, {
    ...(options.presets ? { presets: options.presets } : {}),
    ...(options.resolve ? { resolve: options.resolve } : {}),
  });
  const services = createServiceManager(core, [
    createSshAgentService(core),
    createCredentialService(core, credentials),
  ]);
  const supervisor = createSupervisor(core, logs, [egress, services]);
  const ports = createPortManager(core);
  const lifecycle = createLifecycle(core, supervisor, logs, ports, secrets, credentials, services);
  const snapshots = createSnapshots(core, secrets, credentials, lifecycle.restore);
  const reaper = createReaper(core, lifecycle.expire);
  const execs = createExecs(core, egress.denials);
  const images = createImages(core);
  const stats = createStatsReader(core);
  const health = createHealthCheck(core);
  core.events.subscribe(({ type }) => {
    if (type === "created" || type === "extended") reaper.reschedule();
  });
  await secrets.load();
  await credentials.load();
  await runtimes.start(runtimesInUse(core, options.stateDir));
  onStep("open.reconciled");
  await logs.sweep();
  await secrets.sweep();
  onStep("open.swept");
  reaper.reschedule();
  const secretsApi = createSecrets(core, secrets, egress);
  const credentialsApi = createCredentials(core, credentials, services);
  const resources = undo.release();

  // Commands and files are refused where they go inside; the rest is here.
  const open = () => refuseWhenClosing(core);

  async function close({ stopSandboxes = false } = {}): Promise<void> {
    closing.abort(new WarrenError("shutting_down", "the engine is shutting down"));
    reaper.stop();
    onStep("close.begun");
    await execs.close();
    await runtimes.idle();
    await images.idle();
    await core.mutex.idle();
    onStep("close.idle");
    if (stopSandboxes) {
      const running = core.table.all().filter(({ state }) => state === "running" || state === "paused");
      const results = await Promise.allSettled(
        running.map((record) => lifecycle.stop(record.id, core.config.stopGraceMs)),
      );
      for (const result of results) {
        if (result.status === "rejected") log.error({ err: result.reason }, "a sandbox could not be stopped");
      }
    }
    supervisor.close();
    egress.close();
    services.close();
    ports.closeAll();
    await core.mutex.idle();
    await logs.close();
    await runtimes.close();
    resources[Symbol.dispose]();
    onStep("close.released");
  }
  let closed: Promise<void> | undefined;

  return {
    bus: core.events,
    events(eventOptions = {}) {
      open();
      return streamEvents(core, eventOptions);
    },
    close: (how) => (closed ??= close(how)),

    async health() {
      return closing.signal.aborted
        ? { status: "unhealthy", reason: "shutting down", features: featuresWith(runtimes) }
        : await health();
    },
    async version() {
      open();
      return { ...buildInfo(), features: featuresWith(runtimes) };
    },
    async create(request, options = {}) {
      open();
      return await lifecycle.create(request, options);
    },
    async get(id) {
      open();
      return currentInfo(core, core.table.resolve(id));
    },
    async list(filter = {}) {
      open();
      const wanted = Object.entries(filter.labels ?? {});
      return core.table
        .all()
        .filter(({ request }) => wanted.every(([key, value]) => request.labels?.[key] === value))
        .map((record) => currentInfo(core, record));
    },
    async start(id) {
      open();
      return await lifecycle.start(id);
    },
    async stop(id, { timeoutMs } = {}) {
      open();
      return await lifecycle.stop(id, timeoutMs ?? core.config.stopGraceMs);
    },
    logs(id, logOptions = {}) {
      open();
      const { signal, ...request } = logOptions;
      const asked = parseInput(LogRequest, request);
      const record = core.table.resolve(id);
      return streamLog(logs.of(record.id), { ...asked, signal }, core.closing);
    },
    async wait(id, options = {}) {
      open();
      return await waitForEnd(core, id, options);
    },
    async pause(id) {
      open();
      return await lifecycle.pause(id);
    },
    async resume(id) {
      open();
      return await lifecycle.resume(id);
    },
    async update(id, changes) {
      open();
      return await lifecycle.update(id, changes);
    },
    async remove(id) {
      open();
      await lifecycle.remove(id);
    },
    async extend(id, timeoutS) {
      open();
      return lifecycle.extend(id, timeoutS);
    },
    exec: (id, request, { signal } = {}) => execs.exec(id, request, signal),
    execStream: (id, request, { signal } = {}) => execs.execStream(id, request, signal),
    files: createFiles(core),
    images,
    network: {
      async get(id) {
        open();
        return egress.state(id);
      },
      async set(id, rules, { by } = {}) {
        open();
        return await egress.set(id, rules, by);
      },
      async change(id, change, { by } = {}) {
        open();
        return await egress.change(id, change, by);
      },
      async explain(id, host, port) {
        open();
        return await egress.explain(id, host, port);
      },
      async decisions(id) {
        open();
        return egress.decisions(id);
      },
    },
    ports: {
      async list(id) {
        open();
        return ports.list(id);
      },
      async add(id, port) {
        open();
        return await ports.add(id, port);
      },
      async remove(id, choice) {
        open();
        await ports.remove(id, choice);
      },
    },
    async dial(id, port) {
      open();
      return await ports.dial(id, port);
    },
    secrets: {
      async list(id) {
        open();
        return await secretsApi.list(id);
      },
      async put(id, name, secret, change) {
        open();
        return await secretsApi.put(id, name, secret, change);
      },
      async remove(id, name, change) {
        open();
        return await secretsApi.remove(id, name, change);
      },
    },
    credentials: {
      async list(id) {
        open();
        return await credentialsApi.list(id);
      },
      async put(id, kind, value, change) {
        open();
        return await credentialsApi.put(id, kind, value, change);
      },
      async remove(id, kind, change) {
        open();
        return await credentialsApi.remove(id, kind, change);
      },
    },
    snapshots,
    volumes: createVolumes(core, lifecycle.remove),
    async prune(options = {}) {
      open();
      return await lifecycle.prune(parseInput(RuntimeChoice, options).runtime);
    },
    async stats(id) {
      open();
      return await stats.sandbox(id);
    },
    async systemStats() {
      open();
      return stats.system();
    },
  };
}

/** Those that a sandbox belongs to, and those that may have left something behind when there was no record of it. */
function runtimesInUse(core: Core, stateDir: string): string[] {
  const records = [...core.table.all(), ...core.snapshots.everything()];
  const recorded = new Set(records.map(({ runtime }) => runtime));
  return core.runtimes.names.filter((name) => recorded.has(name) || existsSync(join(stateDir, name)));
}

/** Releases what was added, the last first; `release` hands that duty to whoever holds the result. */
class DisposableList implements Disposable {
  #items: Disposable[] = [];

  add(item: Disposable): void {
    this.#items.push(item);
  }

  release(): Disposable {
    const heir = new DisposableList();
    heir.#items = this.#items;
    this.#items = [];
    return heir;
  }

  [Symbol.dispose](): void {
    for (let item = this.#items.pop(); item; item = this.#items.pop()) item[Symbol.dispose]();
  }
}
