import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, renameSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import type { ServeConfig } from "../../../src/app/serve-config.ts";
import { createNodeClient } from "../../../src/client/node/index.ts";
import type { SandboxApi } from "../../../src/contracts/api.ts";
import type { Step } from "../../../src/contracts/steps.ts";
import type { EngineConfig } from "../../../src/engine/config.ts";

/** The `nth` time that an engine tells a step, counted from where it was armed. */
export interface Point {
  step: Step;
  nth: number;
}

export interface EngineSettings {
  config: ServeConfig;
  engine: Partial<EngineConfig>;
  /** Directory of a cgroup that the engine enters first. */
  group: string;
  /** Where it kills itself; "trace": it says each step instead. */
  point?: Point | "trace" | undefined;
}

/** A real engine in a process of its own. */
export interface EngineProcess {
  readonly pid: number;
  readonly api: SandboxApi;
  /** Rejects with what it said when it ends before. */
  readonly ready: Promise<void>;
  /** Resolves with how it ended. */
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  readonly trace: Step[];
  arm(point: Point | "trace"): Promise<void>;
  kill(signal: NodeJS.Signals): void;
  isAlive(): boolean;
  /** What it has logged. */
  said(): string;
}

const root = fileURLToPath(new URL("../../../", import.meta.url));

/** The program of `startEngine`, in one file: it starts sooner, and holds no file of ours open. */
export async function buildEngine(name: "engine" | "builder" = "engine"): Promise<string> {
  const dir = join(root, "dist/test");
  mkdirSync(dir, { recursive: true });
  const draft = join(dir, `crash-${name}.${process.pid}.mjs`);
  await build({
    absWorkingDir: root,
    entryPoints: [`test/crash/support/${name}-main.ts`],
    outfile: draft,
    bundle: true,
    platform: "node",
    target: "node20",
    format: "esm",
    logLevel: "warning",
    external: ["libsql", "pino", "bufferutil", "utf-8-validate"],
    banner: {
      js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);',
    },
  });
  const program = join(dir, `crash-${name}.mjs`);
  renameSync(draft, program);
  return program;
}

/** `logFd`: where its log goes, instead of to `said`. */
export function startEngine(program: string, settings: EngineSettings, logFd?: number): EngineProcess {
  const child = spawn(process.execPath, [program, JSON.stringify(settings)], {
    cwd: "/",
    stdio: ["pipe", "pipe", logFd ?? "pipe", "pipe"],
  }) as ChildProcessByStdio<Writable, Readable, Readable | null>;
  let said = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    said = (said + text).slice(-20_000);
  });
  child.stdin.on("error", () => {}); // "exit" tells
  const trace: Step[] = [];
  createInterface({ input: child.stdio[3] as Readable }).on("line", (line) => trace.push(line as Step));
  const waiting = new Map<string, () => void>();
  createInterface({ input: child.stdout }).on("line", (line) => waiting.get(line)?.());
  const ended = once(child, "close").then(([code, signal]) => ({
    code: code as number | null,
    signal: signal as NodeJS.Signals | null,
  }));
  const told = (line: string) =>
    Promise.race([
      new Promise<void>((resolve) => waiting.set(line, resolve)),
      ended.then(({ code, signal }) => {
        throw new Error(`the engine ended (${signal ?? code}): ${said}`);
      }),
    ]);
  const ready = told("ready");
  ready.catch(() => {}); // whoever waits for it is told
  return {
    pid: child.pid ?? 0,
    api: createNodeClient({ url: `unix:${join(settings.config.stateDir, "engine.sock")}` }),
    ready,
    ended,
    trace,
    async arm(point) {
      const armed = told("armed");
      child.stdin.write(`${JSON.stringify(point)}\n`);
      await armed;
    },
    kill: (signal) => void child.kill(signal),
    isAlive: () => child.exitCode === null && child.signalCode === null,
    said: () => said,
  };
}

/** A cgroup for engines of one test, in a hierarchy in which sandboxes have groups of their own. */
export function cgroupOf(name: string): string {
  const v1 = "/sys/fs/cgroup/pids";
  return join(existsSync(v1) ? v1 : "/sys/fs/cgroup", name);
}

export function membersOf(group: string): number[] {
  if (!existsSync(group)) return [];
  return readFileSync(join(group, "cgroup.procs"), "utf8").split("\n").filter(Boolean).map(Number);
}

export function removeCgroup(group: string): void {
  if (existsSync(group)) rmdirSync(group);
}
