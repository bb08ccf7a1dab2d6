import { existsSync } from "node:fs";
import { access, mkdir, readdir, readFile, rm } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import type {
  Capabilities,
  ProbeFinding,
  ProbeReport,
  Runtime,
  RuntimeSandbox,
  RuntimeSpec,
} from "../../contracts/runtime.ts";
import { createGuestClient } from "../../guest/client.ts";
import { nativeProgram } from "../../lib/native.ts";
import { isAlive, signalProcess, waitForEnd } from "../../lib/processes.ts";
import { run as runProgram } from "../../lib/run.ts";
import { throwIfAborted } from "../../lib/signals.ts";
import { probeNetworkCapture } from "../common/network-capture.ts";
import type { RuntimeFactory } from "../factory.ts";
import { launch, startFailure } from "./bwrap.ts";
import { checkPathLength, isSandboxId, type Layout, layoutOf, readRun, writeJson } from "./layout.ts";
import { childrenOf, findMarked } from "./processes.ts";
import { ensureImage, makeRoot } from "./rootfs.ts";
import { createSnapshots } from "./snapshots.ts";
import { readStats } from "./stats.ts";
import { createVolumes } from "./volumes.ts";

/** How long the kernel may take to end what was sent SIGKILL. */
const KILL_TIMEOUT_MS = 10_000;
/** What a guest may take beyond the grace that it was given. */
const SHUTDOWN_SLACK_MS = 1_000;

const capabilities: Capabilities = {
  networkModes: ["none", "filtered"],
  networkCapture: true,
  limits: [],
  readonlyRoot: true,
  tmpfs: true,
  userNamespace: true,
  rootless: true,
  pause: false,
  snapshots: true,
  isolation: ["container"],
  images: ["host", "directory"],
  imageStore: false,
  volumes: true,
  binds: true,
};

/**
 * The runtime for unit tests: the real guest in bubblewrap's namespaces, without cgroups, overlay or seccomp. It isolates
 * well enough for a test's own commands, and is not meant for a stranger's.
 */
export const openFakeRuntime: RuntimeFactory = async ({ stateDir, ownerId, log }) => {
  const base = join(stateDir, "fake");
  checkPathLength(base);
  const volumeDir = join(base, ".volumes"); // no sandbox's id begins with a dot
  const snapshotDir = join(base, ".snapshots");
  await mkdir(volumeDir, { recursive: true, mode: 0o700 });
  await mkdir(snapshotDir, { recursive: true, mode: 0o700 });
  const marker = (id: string) => `warren-fake:${ownerId}:${id}`;

  const dial = (layout: Layout) =>
    new Promise<Socket>((resolve, reject) => {
      const socket = connect(layout.socket);
      socket.once("connect", () => {
        socket.removeAllListeners("error");
        resolve(socket);
      });
      socket.once("error", (cause) => {
        reject(new WarrenError("guest_failed", "the sandbox's guest does not answer", { cause }));
      });
    });

  const inspectLayout = (id: string, layout: Layout): RuntimeSandbox => {
    const run = readRun(layout);
    if (!run) return { id, state: "created" };
    return isAlive(run.guest) ? { id, state: "running", pid: run.guest.pid } : { id, state: "stopped" };
  };

  /** Everything of this sandbox that runs, found without trusting that its start got as far as writing a file. */
  const processesOf = (id: string, layout: Layout) => {
    const run = readRun(layout);
    const marked = findMarked(marker(id));
    // The guest itself bears no mark, and outlives the bwrap that started it.
    const children = marked.length > 0 ? childrenOf(marked) : [];
    return [...(run ? [run.guest, run.monitor] : []), ...marked, ...children].filter(isAlive);
  };

  const kill = async (id: string, layout: Layout) => {
    const victims = processesOf(id, layout);
    // Of a pid namespace everything ends with its first process; bwrap then ends by itself, and is reaped by its parent.
    for (const victim of victims) signalProcess(victim, "SIGKILL");
    const ended = await Promise.all(victims.map((victim) => waitForEnd(victim, KILL_TIMEOUT_MS)));
    if (ended.includes(false)) {
      throw new WarrenError("runtime_failed", `the processes of sandbox ${id} do not end`);
    }
  };

  const stop = async (id: string, timeoutMs: number) => {
    const layout = layoutOf(base, id);
    const guest = readRun(layout)?.guest;
    if (guest && timeoutMs > 0 && isAlive(guest)) {
      const refused = createGuestClient(() => dial(layout))
        .shutdown(timeoutMs)
        .then(
          () => new Promise<never>(() => {}), // it has begun: what counts is the end
          (error: unknown) => log.debug({ err: error, sandbox: id }, "a guest did not take its shutdown"),
        );
      // A guest that hangs takes no longer than one that uses its whole grace.
      await Promise.race([refused, waitForEnd(guest, timeoutMs + SHUTDOWN_SLACK_MS)]);
    }
    await kill(id, layout);
    await rm(layout.socket, { force: true });
  };

  const remove = async (id: string) => {
    await stop(id, 0);
    await removeTree(layoutOf(base, id).dir);
  };

  const idsOf = async () => (await readdir(base)).filter(isSandboxId);
  const specs = async () => {
    const all = await Promise.allSettled((await idsOf()).map((id) => readSpec(id, layoutOf(base, id))));
    return all.flatMap((spec) => (spec.status === "fulfilled" ? [spec.value] : []));
  };
  const volumes = createVolumes(volumeDir, specs, remove);
  const layout = (id: string) => layoutOf(base, id);
  const snapshots = createSnapshots(snapshotDir, layout, (id) => readSpec(id, layout(id)), removeTree);
  await snapshots.recover();

  return {
    name: "fake",
    capabilities: { ...capabilities, networkCapture: (await probeNetworkCapture()).works },
    probe,
    images: { ensure: (reference) => ensureImage(reference) },
    volumes: volumes.store,
    snapshots: snapshots.store,

    async create(spec, { signal } = {}) {
      const layout = layoutOf(base, spec.id);
      throwIfAborted(signal);
      for (const mount of spec.mounts) await volumes.source(mount);
      try {
        await mkdir(layout.dir, { mode: 0o700 });
      } catch (cause) {
        throw new WarrenError("runtime_failed", `sandbox ${spec.id} exists already`, { cause });
      }
      try {
        await makeRoot(layout.root, spec, signal);
        await writeJson(layout.spec, spec);
        throwIfAborted(signal);
      } catch (error) {
        await removeTree(layout.dir);
        throw error;
      }
    },

    async start(id, { signal } = {}) {
      const layout = layoutOf(base, id);
      throwIfAborted(signal);
      const spec = await readSpec(id, layout);
      const before = readRun(layout)?.guest;
      if (before && isAlive(before)) return { pid: before.pid };
      await kill(id, layout); // what a start left that was cut short
      try {
        const mounts = await Promise.all(
          spec.mounts.map(async (mount) => ({ ...mount, source: await volumes.source(mount) })),
        );
        const run = await launch(layout, { ...spec, mounts }, marker(id));
        await createGuestClient(() => dial(layout)).hello();
        throwIfAborted(signal);
        return { pid: run.guest.pid };
      } catch (error) {
        await kill(id, layout);
        throw startFailure(layout, error);
      }
    },

    stop: (id, { timeoutMs }) => stop(id, timeoutMs),

    async pause() {
      throw new WarrenError("unsupported", "the runtime fake can't pause sandboxes");
    },
    async resume() {
      throw new WarrenError("unsupported", "the runtime fake can't pause sandboxes");
    },
    async updateLimits(id, limits) {
      if (limits.memoryBytes || limits.memoryHighBytes || limits.cpuNano || limits.pids) {
        throw new WarrenError("unsupported", "the runtime fake can't enforce limits");
      }
      await readSpec(id, layoutOf(base, id));
    },

    async updateReach() {
      throw new WarrenError("unsupported", "the runtime fake has no open network");
    },
    async reachItems() {
      throw new WarrenError("unsupported", "the runtime fake has no open network");
    },
    async watchDenied() {
      throw new WarrenError("unsupported", "the runtime fake has no open network");
    },

    remove,

    async inspect(id) {
      const layout = layoutOf(base, id);
      return existsSync(layout.dir) ? inspectLayout(id, layout) : undefined;
    },

    async list() {
      return (await idsOf()).map((id) => inspectLayout(id, layoutOf(base, id)));
    },

    connect: (id) => dial(layoutOf(base, id)),

    async stats(id) {
      const guest = readRun(layoutOf(base, id))?.guest;
      if (!guest || !isAlive(guest)) {
        throw new WarrenError("sandbox_wrong_state", `sandbox ${id} is not running`);
      }
      return readStats(guest.pid);
    },

    oomKills: () => undefined,
    close: async () => {},
  } satisfies Runtime;
};

async function probe(): Promise<ProbeReport> {
  const findings: ProbeFinding[] = [];
  let version: string | undefined;
  try {
    version = (await runProgram("bwrap", ["--version"])).stdout.toString("utf8").trim();
    const trial = ["--unshare-user", "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "--", "true"];
    const { code, stderr } = await runProgram("bwrap", trial);
    if (code !== 0) {
      const said = stderr.toString("utf8").trim().slice(0, 200);
      findings.push({ level: "error", message: `bubblewrap can't make namespaces here: ${said}` });
    }
  } catch {
    findings.push({
      level: "error",
      message: "bubblewrap is not installed",
      fix: "apt-get install bubblewrap",
    });
  }
  try {
    await access(nativeProgram("warren-guest"));
  } catch {
    findings.push({
      level: "error",
      message: "the guest program is not built",
      fix: "npm run build:native",
    });
  }
  const usable = findings.length === 0;
  if (usable) findings.push({ level: "ok", message: `${version} can make namespaces` });
  return { runtime: "fake", usable, ...(version === undefined ? {} : { version }), findings };
}

async function readSpec(id: string, layout: Layout): Promise<RuntimeSpec> {
  try {
    // Written by this driver in a directory that only its owner can reach.
    return JSON.parse(await readFile(layout.spec, "utf8")) as RuntimeSpec;
  } catch (cause) {
    throw new WarrenError("runtime_failed", `sandbox ${id} is not there or was never finished`, { cause });
  }
}

async function removeTree(path: string): Promise<void> {
  try {
    await rm(path, { recursive: true, force: true });
  } catch {
    // An ordinary user can't empty directories that the sandbox made unwritable.
    await runProgram("chmod", ["-R", "u+rwX", "--", path]);
    await rm(path, { recursive: true, force: true });
  }
}
