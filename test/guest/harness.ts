import { type ChildProcess, spawn as spawnProcess } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { chmod, copyFile, mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { createGuestClient, type GuestTimeouts } from "../../src/guest/client.ts";
import type { GuestClient, GuestExit, GuestSession, SpawnRequest } from "../../src/guest/types.ts";
import { nativeProgram } from "../../src/lib/native.ts";

/** `WARREN_GUEST` names another build, such as the one with sanitizers. */
const program = process.env.WARREN_GUEST ?? nativeProgram("warren-guest");
export const isSanitized = program.endsWith("-asan");

export interface TestGuest extends AsyncDisposable {
  client: GuestClient;
  connect(): Promise<net.Socket>;
  pid: number;
  /** For files of the test; removed at the end. */
  dir: string;
  process: ChildProcess;
  /** Exit code, or signal. */
  ended: Promise<number | string | null>;
  /** What the guest and the main command wrote. */
  stdout(): string;
  stderr(): string;
}

/** For a guest that is process 1 of a pid namespace, as in a sandbox. */
export const ownPidNamespace = [
  ...["bwrap", "--dev-bind", "/", "/", "--unshare-pid", "--proc", "/proc"],
  ...["--as-pid-1", "--die-with-parent"],
];

export interface GuestOptions {
  /** What follows the guest's own `--listen`. */
  args?: string[];
  /** Put before the guest's command line. */
  wrapper?: string[];
  env?: Record<string, string>;
  uid?: number;
  timeouts?: Partial<GuestTimeouts>;
}

/** The real program, as an ordinary process. */
export async function startGuest(options: GuestOptions = {}): Promise<TestGuest> {
  accessSync(program, constants.X_OK);
  const dir = await mkdtemp(join(tmpdir(), "warren-guest-"));
  const path = join(dir, ".sock");
  let binary = program;
  if (options.uid !== undefined) {
    // The checkout need not be readable for that user.
    await chmod(dir, 0o777);
    binary = join(dir, ".guest");
    await copyFile(program, binary);
    await chmod(binary, 0o755);
  }
  const argv = [...(options.wrapper ?? []), binary, "--listen", path, ...(options.args ?? [])];
  const child = spawnProcess(argv[0] as string, argv.slice(1), {
    stdio: ["ignore", "pipe", "pipe"],
    env: options.env ?? {},
    ...(options.uid === undefined ? {} : { uid: options.uid, gid: options.uid }),
  });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const ended = new Promise<number | string | null>((resolve, reject) => {
    child.on("exit", (code, signal) => resolve(code ?? signal));
    child.on("error", reject);
  });
  const connect = () => connectTo(path);
  await until(() =>
    connect().then(
      (socket) => socket.destroy(),
      () => child.exitCode !== null,
    ),
  );
  return {
    client: createGuestClient(connect, options.timeouts),
    connect,
    pid: child.pid as number,
    dir,
    process: child,
    ended,
    stdout: () => stdout,
    stderr: () => stderr,
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await ended;
      await rm(dir, { recursive: true, force: true });
      if (stderr.includes("Sanitizer") || stderr.includes("runtime error")) throw new Error(stderr);
    },
  };
}

export function connectTo(path: string): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ path, allowHalfOpen: true });
    socket.once("error", reject);
    socket.once("connect", () => {
      // Told as the end of the stream; tests look at that.
      socket.on("error", () => {});
      resolve(socket);
    });
  });
}

/** Waits for a condition, checking it every few milliseconds. */
export async function until<T>(condition: () => T | Promise<T>, timeoutMs = 20_000): Promise<NonNullable<T>> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (performance.now() > end) throw new Error(`not within ${timeoutMs} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export interface RunResult extends GuestExit {
  stdout: string;
  stderr: string;
}

const PATH = process.env.PATH ?? "/usr/bin:/bin";

/** A request for a shell script; values travel as arguments. */
export function script(text: string, ...args: string[]): SpawnRequest {
  return { argv: ["/bin/sh", "-c", text, "sh", ...args], env: { PATH } };
}

export async function collect(session: GuestSession): Promise<RunResult> {
  const parts: Record<"stdout" | "stderr", Buffer[]> = { stdout: [], stderr: [] };
  for await (const { stream, data } of session.output) parts[stream].push(Buffer.from(data));
  return {
    ...(await session.exit),
    stdout: Buffer.concat(parts.stdout).toString(),
    stderr: Buffer.concat(parts.stderr).toString(),
  };
}

export async function run(guest: TestGuest, request: SpawnRequest): Promise<RunResult> {
  return collect(await guest.client.spawn(request));
}

/** Reads output until it contains the text. The iteration must be one: output can be iterated once. */
export async function readUntil(output: AsyncIterator<{ data: Uint8Array }>, text: string): Promise<string> {
  let seen = "";
  while (!seen.includes(text)) {
    const step = await output.next();
    if (step.done) throw new Error(`output ended with ${JSON.stringify(seen)}`);
    seen += Buffer.from(step.value.data).toString();
  }
  return seen;
}

export async function bytesOf(body: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of body) parts.push(part);
  return Buffer.concat(parts);
}

let marks = 0;
/** An environment variable's value by which a command's whole tree can be found. */
export function newMark(): string {
  return `warren-test-${process.pid}-${++marks}-`;
}

/** Pids of live processes whose environment holds the mark. */
export async function marked(mark: string): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(
    pids.map(async (pid) => {
      const environ = await readFile(`/proc/${pid}/environ`, "latin1").catch(() => "");
      return environ.includes(mark) ? [Number(pid)] : [];
    }),
  );
  return found.flat();
}

export async function processStatus(pid: number): Promise<{ ppid: number; rssKiB: number; state: string }> {
  const text = await readFile(`/proc/${pid}/status`, "utf8");
  const field = (name: string): string => new RegExp(`^${name}:\\s+(\\S+)`, "m").exec(text)?.[1] ?? "";
  return { ppid: Number(field("PPid")), rssKiB: Number(field("VmRSS")), state: field("State") };
}

/** Direct children of a process. */
export async function childrenOf(parent: number): Promise<number[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name)).map(Number);
  const found: number[] = [];
  for (const pid of pids) {
    const status = await processStatus(pid).catch(() => undefined);
    if (status?.ppid === parent && status.state !== "Z") found.push(pid);
  }
  return found;
}

/** The most memory that one of them has, in KiB; 0 where there is none. */
export async function largestChild(parent: number): Promise<number> {
  // One that ends in this moment has none.
  const sizes = (await childrenOf(parent)).map((pid) => processStatus(pid).catch(() => undefined));
  return Math.max(0, ...(await Promise.all(sizes)).map((status) => status?.rssKiB ?? 0));
}

export const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  );

/** A frame of the guest protocol, by hand. */
export function frame(type: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(5);
  header.writeUInt32LE(payload.length, 0);
  header[4] = type;
  return Buffer.concat([header, payload]);
}

/** All that comes until the other side ends, or the time is over. */
export function drain(socket: Duplex): Promise<Buffer> {
  return new Promise((resolve) => {
    const parts: Buffer[] = [];
    socket.on("data", (part: Buffer) => parts.push(part));
    const done = (): void => resolve(Buffer.concat(parts));
    socket.on("end", done).on("close", done).on("error", done);
  });
}
