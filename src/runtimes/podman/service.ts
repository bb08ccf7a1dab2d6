import { spawn } from "node:child_process";
import { mkdir, open, readFile, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { WarrenError } from "../../contracts/errors.ts";
import { readText, writeAtomically } from "../../lib/files.ts";
import { lastWords } from "../../lib/last-words.ts";
import {
  isAlive,
  type ProcessIdentity,
  readProcess,
  signalProcess,
  waitForEnd,
} from "../../lib/processes.ts";
import { createSingleFlight } from "../../lib/single-flight.ts";
import { type Endpoint, openConnection } from "../containers/endpoint.ts";

/** How long Podman's service may take to listen: it opens its storage first. */
const START_TIMEOUT_MS = 20_000;
/** Seconds without a request after which a service ends by itself, should its engine have been killed. */
const IDLE_S = 60;
/** It answers what it has begun before it ends. */
const END_TIMEOUT_MS = 15_000;
/** sun_path of unix(7), its final NUL excluded. */
const MAX_SOCKET_PATH = 107;

const SOCKET = "api";
const RECORD = "service.json";

/** A service of our own, which ends with us, or by itself after us. */
export interface PodmanService {
  readonly endpoint: Endpoint;
  /** The process that it is now. */
  readonly process: ProcessIdentity | undefined;
  /** Starts it again when it has gone, once for all who ask. Throws `runtime_unavailable`. */
  revive(): Promise<void>;
  close(): Promise<void>;
}

export interface ServiceOptions {
  /** Absolute; ours alone. */
  dir: string;
  /** Of Podman. */
  env: Readonly<Record<string, string>>;
  /** Seconds; for tests. */
  idleS?: number;
}

const Identity = z.object({ pid: z.number().int().positive(), startTime: z.number().int().positive() });

export async function openService({ dir, env, idleS = IDLE_S }: ServiceOptions): Promise<PodmanService> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const path = join(dir, SOCKET);
  const record = join(dir, RECORD);
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH) {
    throw new WarrenError("runtime_unavailable", `the path of Podman's socket would be too long: ${path}`, {
      hint: `it may take ${MAX_SOCKET_PATH} bytes; choose a shorter state directory`,
    });
  }
  const endpoint: Endpoint = { kind: "unix", path };
  const flight = createSingleFlight<void>();
  let isClosed = false;
  let current: ProcessIdentity | undefined;

  const start = async (): Promise<void> => {
    if (isClosed) throw new WarrenError("runtime_unavailable", "podman's service was closed");
    if (current && isAlive(current)) {
      if (await answers(endpoint)) return;
      await endService(current);
    }
    await rm(path, { force: true });
    current = await spawnService(path, env, idleS, async (identity) => {
      current = identity;
      await writeAtomically(record, JSON.stringify(identity));
    });
  };

  // What an engine that was killed has begun is over, one way or the other, when its service is: then all of it is seen.
  const former = await formerService(dir);
  if (former) await endService(former);
  await flight.run("start", start);
  return {
    endpoint,
    get process() {
      return current;
    },
    revive: () => flight.run("start", start),
    async close() {
      isClosed = true;
      await flight.close();
      if (current) await endService(current);
      await Promise.all([path, record].map((file) => rm(file, { force: true })));
    },
  };
}

export async function endService(service: ProcessIdentity): Promise<void> {
  if (!signalProcess(service, "SIGTERM") || (await waitForEnd(service, END_TIMEOUT_MS))) return;
  // Its process group: a rootless Podman is two processes.
  if (isAlive(service)) process.kill(-service.pid, "SIGKILL");
  await waitForEnd(service, END_TIMEOUT_MS);
}

/** The one that an engine that was killed has left. */
export async function formerService(dir: string): Promise<ProcessIdentity | undefined> {
  const former = Identity.safeParse(await readRecord(join(dir, RECORD)));
  return former.success && (await isService(former.data, join(dir, SOCKET))) ? former.data : undefined;
}

/** Resolves when it listens. `onSpawn` is told of the process first, so that it can be found whatever comes. */
async function spawnService(
  path: string,
  env: Readonly<Record<string, string>>,
  idleS: number,
  onSpawn: (identity: ProcessIdentity) => Promise<void>,
): Promise<ProcessIdentity> {
  // A file: a service that lives on must not die of a pipe that nobody reads.
  const log = await open(join(dirname(path), "service.log"), "w", 0o600);
  const child = spawn("podman", ["system", "service", `--time=${idleS}`, `unix://${path}`], {
    stdio: ["ignore", "ignore", log.fd],
    detached: true,
    // What it starts for commands writes an empty file named "oom" where it is, and it outlives whoever called us.
    cwd: dirname(path),
    env,
  });
  child.unref();
  let ended: NodeJS.ErrnoException | true | undefined;
  child.once("error", (error) => {
    ended = error;
  });
  child.once("exit", () => {
    ended ??= true;
  });
  await log.close();
  const startTime = child.pid === undefined ? undefined : readProcess(child.pid)?.startTime;
  const identity = child.pid !== undefined && startTime !== undefined && { pid: child.pid, startTime };
  if (identity) await onSpawn(identity);
  const deadline = performance.now() + START_TIMEOUT_MS;
  const endpoint: Endpoint = { kind: "unix", path };
  for (;;) {
    if (identity && (await answers(endpoint))) return identity;
    if (ended !== undefined) {
      if (ended === true) throw notStarted(lastWords(await readFile(join(path, "../service.log"))));
      if (ended.code !== "ENOENT") throw notStarted(ended.message);
      throw new WarrenError("runtime_unavailable", "podman is not installed", {
        hint: "apt-get install podman",
      });
    }
    if (performance.now() > deadline) {
      if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
      throw notStarted("it does not answer");
    }
    await sleep(10);
  }
}

function notStarted(why: string): WarrenError {
  return new WarrenError("runtime_unavailable", `podman's service could not be started: ${why}`, {
    hint: "`podman info` tells more",
  });
}

async function answers(endpoint: Endpoint): Promise<boolean> {
  try {
    (await openConnection(endpoint)).destroy();
    return true;
  } catch {
    return false;
  }
}

/** True while exactly that process lives, and is what it was. */
async function isService(identity: ProcessIdentity, path: string): Promise<boolean> {
  if (!isAlive(identity)) return false;
  const args = ((await readText(`/proc/${identity.pid}/cmdline`).catch(() => undefined)) ?? "").split("\0");
  return args.includes("service") && args.includes(`unix://${path}`);
}

async function readRecord(path: string): Promise<unknown> {
  try {
    return JSON.parse((await readText(path)) ?? "null");
  } catch {
    return undefined;
  }
}
