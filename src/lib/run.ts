import { type ChildProcess, spawn } from "node:child_process";
import { WarrenError } from "../contracts/errors.ts";

export interface RunOptions {
  /** Milliseconds until the program's process group is killed. Default 30 s. */
  timeoutMs?: number;
  /** Bytes of each of stdout and stderr that are kept; the rest is read and dropped. Default 64 KiB. */
  maxOutputBytes?: number;
  /** Complete: nothing is inherited. Default: PATH only. */
  env?: Record<string, string>;
  cwd?: string;
  /** Default: nothing (/dev/null). */
  stdin?: Uint8Array;
  signal?: AbortSignal;
}

export interface RunResult {
  /** Exit code; 128+n when signal n ended it. */
  code: number;
  stdout: Buffer;
  stderr: Buffer;
  timedOut: boolean;
  truncated: boolean;
}

/**
 * Runs a program to its end, in a process group of its own. A code other than 0 is a result, not an error.
 * @throws WarrenError `runtime_unavailable` when the program can't be started, `cancelled` when `signal` fires.
 */
export async function run(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<RunResult> {
  const { timeoutMs = 30_000, maxOutputBytes = 65_536, signal } = options;
  if (signal?.aborted)
    throw new WarrenError("cancelled", `${program} was not started: the call was cancelled`);
  const child = spawn(program, args, {
    detached: true,
    env: options.env ?? { PATH: process.env.PATH ?? "/usr/bin:/bin" },
    stdio: [options.stdin === undefined ? "ignore" : "pipe", "pipe", "pipe"],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
  const stdout = collect(child.stdout, maxOutputBytes);
  const stderr = collect(child.stderr, maxOutputBytes);
  // A program that doesn't read its input ends the pipe; its exit code tells what happened.
  child.stdin?.on("error", () => {});
  child.stdin?.end(options.stdin);
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    killGroup(child);
  }, timeoutMs);
  const onAbort = () => killGroup(child);
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    const code = await exitOf(child, program);
    if (signal?.aborted) throw new WarrenError("cancelled", `${program} was cancelled`);
    return {
      code,
      stdout: stdout.bytes(),
      stderr: stderr.bytes(),
      timedOut,
      truncated: stdout.cut || stderr.cut,
    };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}

function collect(stream: NodeJS.ReadableStream | null, most: number) {
  const chunks: Buffer[] = [];
  let kept = 0;
  const result = { cut: false, bytes: () => Buffer.concat(chunks) };
  stream?.on("data", (chunk: Buffer) => {
    const part = chunk.subarray(0, most - kept);
    if (part.length < chunk.length) result.cut = true;
    if (part.length > 0) chunks.push(part);
    kept += part.length;
  });
  return result;
}

function exitOf(child: ChildProcess, program: string): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once("error", (cause) =>
      reject(new WarrenError("runtime_unavailable", `${program} could not be started`, { cause })),
    );
    child.once("close", (code, signal) => resolve(code ?? 128 + (signalNumbers[signal ?? ""] ?? 9)));
  });
}

const signalNumbers: Record<string, number> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGABRT: 6,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGTERM: 15,
};

function killGroup(child: ChildProcess): void {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    // It ended in this moment.
  }
}
