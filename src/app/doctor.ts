import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, statfs } from "node:fs/promises";
import { freemem, release, totalmem } from "node:os";
import { join } from "node:path";
import { createNodeClient } from "../client/node/index.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { Capabilities, ProbeFinding, ProbeReport } from "../contracts/runtime.ts";
import { type AuditReport, verifyAudit } from "../engine/audit/chain.ts";
import { lockStateDir } from "../engine/lock.ts";
import { buildInfo } from "../lib/build-info.ts";
import { silentLogger } from "../lib/log.ts";
import { type RuntimeName, runtimes } from "../runtimes/registry.ts";
import { openRuntime } from "./compose.ts";
import { engineAnswers } from "./daemon.ts";
import type { ServeConfig } from "./serve-config.ts";
import { enginePidFile, engineSocket, prepareStateDir } from "./state-dir.ts";

/** How long a runtime may take to tell how it is: its daemon may hang. */
const PROBE_TIMEOUT_MS = 30_000;

/** One runtime here; another than the default one may well be absent. */
export interface RuntimeReport extends ProbeReport {
  default: boolean;
  /** What it can do here; absent when it could not be opened. */
  capabilities?: Capabilities;
}

export interface DoctorReport {
  /** True when a sandbox that names no runtime can be created here. */
  ok: boolean;
  version: string;
  node: string;
  kernel: string;
  cgroup: "v1" | "v2" | "hybrid" | "none";
  memory: { total: number; available: number };
  state_dir: { path: string; free: number; total: number; problem?: ProbeFinding };
  /** What the audit log of network decisions holds, and whether a line of it was tampered with. */
  audit: AuditReport;
  runtimes: RuntimeReport[];
  engine: { running: boolean; socket: string; pid?: number; version?: string };
}

/** Looks at this machine. Never throws for what it finds: that is the report. */
export async function examine(config: Config): Promise<DoctorReport> {
  const stateDir = await examineStateDir(config.stateDir);
  // The fake runtime isolates nothing; that it works says nothing about a machine, unless somebody asked for it.
  const names = (Object.keys(runtimes) as RuntimeName[]).filter(
    (name) => name !== "fake" || config.runtime === "fake",
  );
  const reports = await examineRuntimes(names, config, stateDir.problem);
  return {
    ok: reports.some((report) => report.default && report.usable),
    version: buildInfo().version,
    node: process.versions.node,
    kernel: release(),
    cgroup: cgroupVersion(readText("/proc/self/mounts")),
    memory: { total: totalmem(), available: availableMemory() },
    state_dir: stateDir,
    audit: await examineAudit(config.stateDir),
    runtimes: reports,
    engine: await examineEngine(config.stateDir, stateDir.problem === undefined),
  };
}

type Config = Pick<
  ServeConfig,
  "stateDir" | "runtime" | "ociProgram" | "uplink" | "docker" | "orbMachine" | "strict"
>;

async function examineRuntimes(
  names: readonly RuntimeName[],
  config: Config,
  problem: ProbeFinding | undefined,
): Promise<RuntimeReport[]> {
  const failed = (finding: ProbeFinding) =>
    names.map((name) => unusable(name, name === config.runtime, finding));
  if (problem) return failed(problem);
  try {
    return await withDirectories(config, (dirOf) =>
      Promise.all(names.map((name) => probe(name, { ...config, stateDir: dirOf(name) }))),
    );
  } catch (error) {
    return failed(finding(error));
  }
}

async function probe(name: RuntimeName, config: Config): Promise<RuntimeReport> {
  const isDefault = name === config.runtime;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<RuntimeReport>((resolve) => {
    const message = `it did not answer within ${PROBE_TIMEOUT_MS / 1000} s`;
    timer = setTimeout(
      () => resolve(unusable(name, isDefault, { level: "error", message })),
      PROBE_TIMEOUT_MS,
    );
  });
  const probed = (async () => {
    const runtime = await openRuntime(name, config, silentLogger);
    try {
      return { ...(await runtime.probe()), default: isDefault, capabilities: { ...runtime.capabilities } };
    } finally {
      await runtime.close();
    }
  })();
  try {
    return await Promise.race([probed, late]);
  } catch (error) {
    return unusable(name, isDefault, finding(error));
  } finally {
    clearTimeout(timer);
  }
}

function unusable(runtime: string, isDefault: boolean, finding: ProbeFinding): RuntimeReport {
  return { runtime, usable: false, default: isDefault, findings: [finding] };
}

/**
 * Where each runtime may open. One that opens tidies up what an engine left, so where one lives it gets another directory on
 * the same disk; so does one that nobody has used yet, or the next engine would look for leftovers of it.
 */
async function withDirectories<T>(
  { stateDir, runtime }: Config,
  work: (dirOf: (name: RuntimeName) => string) => Promise<T>,
): Promise<T> {
  using lock = tryLock(stateDir);
  const isUsed = (name: string) => name === runtime || existsSync(join(stateDir, name));
  const dir = await mkdtemp(join(stateDir, "doctor-"));
  try {
    return await work((name) => (lock && isUsed(name) ? stateDir : dir));
  } finally {
    const { removeState } = await import("../runtimes/oci/remove-state.ts");
    await removeState(dir);
  }
}

/** Undefined when an engine has it. */
function tryLock(stateDir: string): Disposable | undefined {
  try {
    return lockStateDir(stateDir);
  } catch (error) {
    if (error instanceof WarrenError && error.code === "engine_locked") return undefined;
    throw error;
  }
}

async function examineStateDir(path: string): Promise<DoctorReport["state_dir"]> {
  try {
    prepareStateDir(path);
    const { bavail, blocks, bsize } = await statfs(path);
    return { path, free: bavail * bsize, total: blocks * bsize };
  } catch (error) {
    return { path, free: 0, total: 0, problem: finding(error) };
  }
}

/** Looked at again when it seems broken: an engine that runs may have begun a new file meanwhile. */
async function examineAudit(stateDir: string): Promise<AuditReport> {
  const look = () => verifyAudit(stateDir).catch((error: Error) => ({ records: 0, problem: error.message }));
  const report = await look();
  return report.problem === undefined ? report : await look();
}

async function examineEngine(stateDir: string, usable: boolean): Promise<DoctorReport["engine"]> {
  let socket: string;
  try {
    socket = engineSocket(stateDir);
    if (!usable || !(await engineAnswers(socket))) {
      return { running: false, socket };
    }
  } catch {
    return { running: false, socket: `${stateDir}/engine.sock` };
  }
  const pid = Number.parseInt(readText(enginePidFile(stateDir)), 10);
  const version = await createNodeClient({ url: `unix:${socket}` })
    .version()
    .catch(() => undefined);
  return {
    running: true,
    socket,
    ...(Number.isNaN(pid) ? {} : { pid }),
    ...(version === undefined ? {} : { version: version.version }),
  };
}

/** Which cgroup hierarchies the host has mounted, from the text of /proc/self/mounts. */
export function cgroupVersion(mounts: string): DoctorReport["cgroup"] {
  const types = new Set(mounts.split("\n").map((line) => line.split(" ")[2]));
  if (types.has("cgroup2")) {
    return types.has("cgroup") ? "hybrid" : "v2";
  }
  return types.has("cgroup") ? "v1" : "none";
}

/** Bytes that programs can still get, page cache that can be dropped included. */
function availableMemory(): number {
  const kibibytes = /^MemAvailable:\s+(\d+) kB$/m.exec(readText("/proc/meminfo"))?.[1];
  return kibibytes === undefined ? freemem() : Number(kibibytes) * 1024;
}

function finding(error: unknown): ProbeFinding {
  const message = error instanceof Error ? error.message : String(error);
  const hint = error instanceof WarrenError ? error.hint : undefined;
  return { level: "error", message, ...(hint === undefined ? {} : { fix: hint }) };
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
