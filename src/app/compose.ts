import { rmSync, writeFileSync } from "node:fs";
import { createNodeClient, type NodeClient } from "../client/node/index.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { Runtime } from "../contracts/runtime.ts";
import type { OnStep } from "../contracts/steps.ts";
import type { EngineConfig } from "../engine/config.ts";
import { type Engine, openEngine } from "../engine/engine.ts";
import type { Logger } from "../lib/log.ts";
import { createPresets } from "../lib/presets/presets.ts";
import { type RuntimeName, runtimes } from "../runtimes/registry.ts";
import { createServer, type TcpListener } from "../server/server.ts";
import { waitForEngine } from "./daemon.ts";
import { ownerIdOf } from "./owner-id.ts";
import { previewKey, previewListener } from "./preview-files.ts";
import type { ServeConfig } from "./serve-config.ts";
import { enginePidFile, engineSocket, prepareStateDir } from "./state-dir.ts";
import { readTlsFiles, type TlsFiles } from "./tls.ts";

export interface RunningWarren {
  /** Where TCP clients connect; absent when the configuration names no listener. */
  url?: string;
  /** Where clients on this machine connect. */
  socket: string;
  /** False when another process runs the engine of this state directory, and we only serve it. */
  ownsEngine: boolean;
  /** With TLS: reads certificate and key again, for new connections. What can't be used is logged, and the old stays. */
  reloadTls?(): void;
  /** Ends the listeners, then the engine. Sandboxes keep running. */
  close(): Promise<void>;
}

/** For tests: what they are told, and limits that are reached sooner. */
export interface ComposeOptions {
  onStep?: OnStep;
  engine?: Partial<EngineConfig>;
}

/** Wires configuration, runtime, engine and server. Nothing happens before `start`. */
export function compose(
  config: ServeConfig,
  log: Logger,
  options: ComposeOptions = {},
): { start(): Promise<RunningWarren> } {
  return { start: () => start(config, log, options) };
}

async function start(config: ServeConfig, log: Logger, options: ComposeOptions): Promise<RunningWarren> {
  // First, so that an engine need not start for a server that can't.
  const identity = config.tls && readTlsFiles(config.tls);
  prepareStateDir(config.stateDir);
  const socket = engineSocket(config.stateDir);
  const undo: (() => Promise<void> | void)[] = [];
  const close = async () => {
    for (let step = undo.pop(); step; step = undo.pop()) await step();
  };
  try {
    const own = await ownEngine(config, log, undo, options);
    const api = own ?? (await sharedEngine(config, log));
    const previews = previewListener(config.stateDir);
    const server = createServer(api, {
      apiKeys: config.apiKeys,
      allowedOrigins: config.allowedOrigins,
      allowBinds: config.allowBinds,
      allowHostNetwork: config.allowHostNetwork,
      publishAddresses: config.publishAddresses,
      ports: {
        dial: (id, port) => api.dial(id, port),
        key: previewKey(config.stateDir),
        domain: config.previewDomain,
        listener: previews,
      },
      log: log.child({ part: "server" }),
    });
    undo.push(() => server.close());
    if (own) {
      await server.listenUnix(socket);
      writeFileSync(enginePidFile(config.stateDir), `${process.pid}\n`, { mode: 0o600 });
      options.onStep?.("open.listening");
      undo.push(() => rmSync(enginePidFile(config.stateDir), { force: true }));
    }
    const secured = identity ? { tls: identity, http2: config.http2 } : {};
    const tcp = config.tcp && (await server.listenTcp({ ...config.tcp, ...secured }));
    const url = tcp?.url;
    if (own && !tcp && previews.port !== 0) {
      // Links that people have lead there.
      await server.listenForPreviews().catch((err) => log.warn({ err }, "previews can't be served yet"));
    }
    log.info({ url, socket, stateDir: config.stateDir, ownsEngine: own !== undefined }, "ready");
    const { tls } = config;
    return {
      socket,
      ownsEngine: own !== undefined,
      close,
      ...(url === undefined ? {} : { url }),
      ...(tcp && tls ? { reloadTls: () => reloadTls(tcp, tls, log) } : {}),
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function reloadTls(listener: TcpListener, files: TlsFiles, log: Logger): void {
  try {
    listener.replaceIdentity(readTlsFiles(files));
    log.info(files, "certificate and key were read again");
  } catch (error) {
    log.error({ err: error }, "the new certificate and key can't be used; the old ones stay");
  }
}

/** Our own engine; undefined when another process has it and there is a listener to offer in front of that one. */
async function ownEngine(
  config: ServeConfig,
  log: Logger,
  undo: (() => Promise<void> | void)[],
  { onStep, engine: settings }: ComposeOptions,
): Promise<Engine | undefined> {
  try {
    const engine = await openEngine({
      stateDir: config.stateDir,
      runtimes: Object.fromEntries(
        config.runtimes.map((name) => [name, () => openRuntime(name, config, log, onStep)]),
      ),
      defaultRuntime: config.runtime,
      log: log.child({ part: "engine" }),
      ...(config.packageManagers ? { presets: createPresets(config.packageManagers) } : {}),
      ...(onStep === undefined ? {} : { onStep }),
      config: {
        ...(config.maxSandboxes === undefined ? {} : { maxSandboxes: config.maxSandboxes }),
        ...(config.defaultTimeoutS === undefined ? {} : { defaultTimeoutS: config.defaultTimeoutS }),
        ...(config.trustFile === undefined ? {} : { trustFile: config.trustFile }),
        ...(config.unlimited ? { defaultMemoryBytes: 0, defaultCpuNano: 0, defaultPids: 0 } : {}),
        ...settings,
      },
    });
    // It closes its runtimes as well.
    undo.push(() => engine.close());
    return engine;
  } catch (error) {
    if (error instanceof WarrenError && error.code === "engine_locked" && config.tcp) {
      return undefined;
    }
    throw error;
  }
}

async function sharedEngine(config: ServeConfig, log: Logger): Promise<NodeClient> {
  const socket = await waitForEngine(config.stateDir);
  log.info({ socket }, "another process runs the engine of this state directory; serving that one");
  return createNodeClient({ url: `unix:${socket}` });
}

/** One runtime driver, loaded now. */
export async function openRuntime(
  name: RuntimeName,
  config: Pick<ServeConfig, "stateDir" | "ociProgram" | "uplink" | "docker" | "orbMachine" | "strict">,
  log: Logger,
  onStep?: OnStep,
): Promise<Runtime> {
  const open = await runtimes[name]();
  return open({
    stateDir: config.stateDir,
    ownerId: ownerIdOf(config.stateDir, onStep),
    log: log.child({ part: name }),
    strict: config.strict,
    docker: config.docker,
    ...(onStep === undefined ? {} : { onStep }),
    ...(config.orbMachine === undefined ? {} : { orb: { machine: config.orbMachine } }),
    ...(config.ociProgram === undefined ? {} : { ociProgram: config.ociProgram }),
    ...(config.uplink === undefined ? {} : { uplink: config.uplink }),
  });
}
