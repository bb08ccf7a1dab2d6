import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";

/** The CLI itself, for Node. */
export const mainFile = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
/** What users call. */
export const frontFile = fileURLToPath(new URL("../../dist/cli/warren", import.meta.url));

export interface Finished {
  /** Exit code; 128+n is never made up: a signal is null here. */
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: Buffer;
  stderr: string;
}

export interface RunOptions {
  /** Text for stdin; without it, stdin is empty. */
  input?: string | Buffer;
  env?: Record<string, string>;
}

/** A state directory of its own with the built CLI on it. Disposing ends its sandboxes and its engine. */
export interface Workspace extends AsyncDisposable {
  readonly dir: string;
  readonly stateDir: string;
  readonly env: NodeJS.ProcessEnv;
  /** Runs a command line to its end. */
  warren(args: string[], options?: RunOptions): Promise<Finished>;
  /** As `warren`, but fails unless the exit code is 0; the text of stdout. */
  ok(args: string[], options?: RunOptions): Promise<string>;
  /** Pid of the engine, as engine.pid tells. */
  enginePid(): number | undefined;
}

/** `program`: what is run in place of what users call. */
export function openWorkspace(
  extra: Record<string, string> = {},
  [command = frontFile, ...first]: readonly string[] = [],
): Workspace {
  // Not below $TMPDIR: a Unix socket's path may take 107 bytes.
  const dir = mkdtempSync("/tmp/warren-cli-");
  const stateDir = join(dir, "state");
  const { WARREN_URL, WARREN_API_KEY, WARREN_API_KEYS, NO_COLOR, ...inherited } = process.env;
  const env = {
    ...inherited,
    WARREN_STATE_DIR: stateDir,
    WARREN_RUNTIME: process.env.WARREN_TEST_RUNTIME ?? "fake",
    ...extra,
  };
  const workspace: Workspace = {
    dir,
    stateDir,
    env,
    warren: (args, options = {}) =>
      run(command, [...first, ...args], { ...env, ...options.env }, options.input),
    async ok(args, options) {
      const { code, stdout, stderr } = await workspace.warren(args, options);
      if (code !== 0) throw new Error(`warren ${args.join(" ")} ended with ${code}: ${stderr}`);
      return stdout.toString();
    },
    enginePid() {
      try {
        return Number.parseInt(readFileSync(join(stateDir, "engine.pid"), "utf8"), 10);
      } catch {
        return undefined;
      }
    },
    async [Symbol.asyncDispose]() {
      if (workspace.enginePid() !== undefined) {
        await workspace.warren(["rm", "--all"]);
        const pid = workspace.enginePid();
        if (pid !== undefined) await endProcess(pid);
      }
      rmSync(dir, { recursive: true, force: true });
    },
  };
  return workspace;
}

export function run(
  file: string,
  args: string[],
  env: NodeJS.ProcessEnv,
  input: string | Buffer = "",
): Promise<Finished> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { env, stdio: "pipe" });
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => stdout.push(chunk));
    child.stderr.on("data", (chunk: Buffer) => stderr.push(chunk));
    child.stdin.on("error", () => {});
    child.stdin.end(input);
    child.on("error", reject);
    child.on("close", (code, signal) =>
      resolve({ code, signal, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString() }),
    );
  });
}

/** Sends a signal and waits until the process is gone. */
export async function endProcess(pid: number, signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
  try {
    process.kill(pid, signal);
  } catch {
    return;
  }
  await until(() => !isAlive(pid), `process ${pid} ends`);
}

/** False for a zombie as well: what is left of it is its parent's to collect. */
export function isAlive(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

/** Polls until the condition holds. */
export async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`never came: ${what}`);
    await delay(20);
  }
}
