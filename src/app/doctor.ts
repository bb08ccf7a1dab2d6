import { readFileSync } from "node:fs";
import { mkdtemp, statfs } from "node:fs/promises";
import { freemem, release, totalmem } from "node:os";
import { join } from "node:path";
import { createNodeClient } from "../client/node/index.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { ProbeFinding, ProbeReport } from "../contracts/runtime.ts";
import { lockStateDir } from "../engine/lock.ts";
import { buildInfo } from "../lib/build-info.ts";
import { silentLogger } from "../lib/log.ts";
import { type RuntimeName, runtimes } from "../runtimes/registry.ts";
import { openRuntime } from "./compose.ts";
import { engineAnswers } from "./daemon.ts";
import type { ServeConfig } from "./serve-config.ts";
import { enginePidFile, engineSocket, prepareStateDir } from "./state-dir.ts";

export interface DoctorReport {
  /** True when sandboxes can be created here. */
  ok: boolean;
  version: string;
  node: string;
  kernel: string;
  cgroup: "v1" | "v2" | "hybrid" | "none";
  memory: { total: number; available: number };
  state_dir: { path: string; free: number; total: number; problem?: ProbeFinding };
  runtimes: ProbeReport[];
  engine: { running: boolean; socket: string; pid?: number; version?: string };
}

/** Looks at this machine. Never throws for what it finds: that is the report. */
export async function examine(
  config: Pick<ServeConfig, "stateDir" | "runtime" | "ociProgram" | "docker" | "strict">,
): Promise<DoctorReport> {
  const stateDir = await examineStateDir(config.stateDir);
  // The fake runtime isolates nothing; that it works says nothing about a machine, unless somebody asked for it.
  const names = (Object.keys(runtimes) as RuntimeName[]).filter(
    (name) => name !== "fake" || config.runtime === "fake",
  );
  const reports = await Promise.all(names.map((name) => probe(name, config, stateDir.problem)));
  return {
    ok: reports.some((report) => report.usable),
    version: buildInfo().version,
    node: process.versions.node,
    kernel: release(),
    cgroup: cgroupVersion(readText("/proc/self/mounts")),
    memory: { total: totalmem(), available: availableMemory() },
    state_dir: stateDir,
    runtimes: reports,
    engine: await examineEngine(config.stateDir, stateDir.problem === undefined),
  };
}

async function probe(
  name: RuntimeName,
  config: Pick<ServeConfig, "stateDir" | "ociProgram" | "docker" | "strict">,
  problem: ProbeFinding | undefined,
): Promise<ProbeReport> {
  if (problem) {
    return { runtime: name, usable: false, findings: [problem] };
  }
  try {
    return await inDirectoryOfOurs(config.stateDir, async (stateDir) => {
      const runtime = await openRuntime(name, { ...config, stateDir }, silentLogger);
      try {
        return await runtime.probe();
      } finally {
        await runtime.close();
      }
    });
  } catch (error) {
    return { runtime: name, usable: false, findings: [finding(error)] };
  }
}

/** A runtime that opens tidies up what an engine left, so where one lives it gets another directory on the same disk. */
async function inDirectoryOfOurs<T>(stateDir: string, work: (dir: string) => Promise<T>): Promise<T> {
  let lock: Disposable;
  try {
    lock = lockStateDir(stateDir);
  } catch (error) {
    if (!(error instanceof WarrenError && error.code === "engine_locked")) throw error;
    const dir = await mkdtemp(join(stateDir, "doctor-"));
    try {
      return await work(dir);
    } finally {
      const { removeState } = await import("../runtimes/oci/remove-state.ts");
      await removeState(dir);
    }
  }
  using _ = lock;
  return await work(stateDir);
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
