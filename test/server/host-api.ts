import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import type { SandboxApi } from "../../src/contracts/api.ts";
import { NO_EXPIRY, signals } from "../../src/contracts/constants.ts";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { ExecExit, ExecOutput, ExecSession } from "../../src/contracts/exec.ts";
import type { FileInfo, WatchEvent } from "../../src/contracts/files.ts";
import type { SandboxInfo } from "../../src/contracts/sandbox.ts";
import type { SnapshotInfo } from "../../src/contracts/snapshots.ts";

export interface HostApi extends SandboxApi {
  /** Whole files, by path. */
  readonly stored: Map<string, Uint8Array>;
  /** What is told of its snapshot beside the least. */
  readonly snapshot: Partial<SnapshotInfo>;
  /** Processes that were started and have not ended. */
  readonly running: Set<ChildProcess>;
  /** Makes the next call of any kind fail with this. */
  failNext(error: unknown): void;
}

const MTIME = "2024-05-06T07:08:09.123456789Z";

/**
 * A `SandboxApi` for tests of routing, authentication, limits and framing: one sandbox `box`, whose commands are processes
 * of this machine and whose files are kept in memory. What sandboxes do is tested with the real engine.
 */
export function createHostApi(): HostApi {
  const stored = new Map<string, Uint8Array>();
  const told: Partial<SnapshotInfo> = {};
  const running = new Set<ChildProcess>();
  const watchers = new Set<(event: WatchEvent) => void>();
  let failure: { error: unknown } | undefined;

  const info = (id: string): SandboxInfo => {
    if (failure) {
      const { error } = failure;
      failure = undefined;
      throw error;
    }
    if (id === "stopped") throw new WarrenError("sandbox_wrong_state", "sandbox is not running");
    if (id !== "box") throw new WarrenError("sandbox_not_found", "sandbox not found");
    return {
      id: "box",
      image: "host",
      status: "running",
      created_at: MTIME,
      expires_at: NO_EXPIRY,
      runtime: "test",
    };
  };
  const snapshot = (): SnapshotInfo => ({
    id: "snap-box",
    sandbox_id: "box",
    name: "",
    image_id: "host",
    created_at: MTIME,
    size: 1,
    runtime: "test",
    image: "host",
    network_mode: "none",
    ...told,
  });
  const fileInfo = (path: string): FileInfo => {
    const size = stored.get(path)?.length;
    if (size === undefined && path !== "/") throw new WarrenError("file_not_found", "file not found");
    return {
      name: path.split("/").at(-1) ?? "",
      path,
      size: size ?? 0,
      mode: "-rw-r--r--",
      mod_time: MTIME,
      is_dir: path === "/",
      type: path === "/" ? "directory" : "file",
      permissions: 0o644,
      uid: 0,
      gid: 0,
    };
  };
  const changed = (type: WatchEvent["type"], path: string) => {
    for (const tell of watchers) tell({ type, path });
  };

  return {
    stored,
    snapshot: told,
    running,
    failNext(error) {
      failure = { error };
    },
    async health() {
      return { status: "ok", features: ["start"] };
    },
    async version() {
      return { version: "1", commit: "c", build_date: "d", features: ["start"] };
    },
    async create(request) {
      return { ...info("box"), image: request.image ?? "host" };
    },
    get: async (id) => info(id),
    list: async () => [info("box")],
    start: async (id) => info(id),
    stop: async (id) => ({ ...info(id), status: "stopped" }),
    logs(id) {
      info(id);
      async function* none() {}
      return { end: Promise.resolve("end" as const), [Symbol.asyncIterator]: none };
    },
    async wait(id) {
      return { exit_code: null, status: info(id).status };
    },
    async pause(id) {
      return { ...info(id), status: "paused" };
    },
    async resume(id) {
      return info(id);
    },
    async update(id, { pid_limit }) {
      return { ...info(id), ...(pid_limit === undefined ? {} : { pid_limit }) };
    },
    async remove(id) {
      info(id);
    },
    secrets: {
      list: async () => [],
      put: async (id) => info(id),
      remove: async (id) => info(id),
    },
    credentials: {
      list: async () => [],
      put: async (id) => info(id),
      remove: async (id) => info(id),
    },
    extend: async (id, timeoutS) => ({ ...info(id), expires_at: timeoutS < 0 ? NO_EXPIRY : MTIME }),
    async exec(id, request, options) {
      info(id);
      const session = start(running, request.cmd, request.env, false, options?.signal);
      const texts = { stdout: "", stderr: "" };
      for await (const { stream, data } of session.output) texts[stream] += Buffer.from(data).toString();
      return { ...texts, ...(await session.exit) };
    },
    async execStream(id, request, options) {
      info(id);
      return start(running, request.cmd, request.env, request.stdin === true, options?.signal);
    },
    async *events() {},
    network: {
      get: async (id) => ({
        mode: info(id).status,
        rules: {},
        presets: {},
        counts: { allowed: 0, denied: 0 },
      }),
      set: async (id, network) => ({ ...info(id), network }),
      change: async (id, { allow = [] }) => ({ ...info(id), network: { allow } }),
      explain: async (id, host, port) => ({
        ...info(id),
        host,
        port,
        allowed: false,
        cause: "no_rule",
        reason: "none",
      }),
      decisions: async (id) => [info(id)].slice(1) as never[],
    },
    ports: {
      list: async (id) => [info(id)].slice(1) as never[],
      async add(id, { sandbox_port, host_port = 0, address = "127.0.0.1" }) {
        info(id);
        return { sandbox_port, host_port, protocol: "tcp", address, state: "open" };
      },
      async remove(id) {
        info(id);
      },
    },
    files: {
      async read(id, path, { offset = 0, length } = {}) {
        info(id);
        const whole = stored.get(path) ?? new Uint8Array(0);
        const body = whole.subarray(offset, length === undefined ? undefined : offset + length);
        return { info: fileInfo(path), body: inPieces(body) };
      },
      async write(id, path, body) {
        info(id);
        const chunks: Uint8Array[] = [];
        if (body instanceof Uint8Array) chunks.push(body);
        else for await (const chunk of body) chunks.push(chunk.slice());
        const whole = Buffer.concat(chunks);
        stored.set(path, whole);
        changed("create", path);
        return { bytes: whole.length };
      },
      async remove(id, path) {
        info(id);
        stored.delete(path);
      },
      async list(id) {
        info(id);
        return [...stored.keys()].map(fileInfo);
      },
      async stat(id, path) {
        info(id);
        return fileInfo(path);
      },
      async mkdir(id) {
        info(id);
      },
      async rename(id, from, to) {
        info(id);
        stored.set(to, stored.get(from) ?? new Uint8Array(0));
        stored.delete(from);
      },
      async chmod(id, path) {
        info(id);
        fileInfo(path);
      },
      async *watch(id, _path, { signal }) {
        info(id);
        const events: WatchEvent[] = [];
        let wake = () => {};
        const tell = (event: WatchEvent) => {
          events.push(event);
          wake();
        };
        watchers.add(tell);
        signal.addEventListener("abort", () => wake(), { once: true });
        try {
          while (!signal.aborted) {
            for (const event of events.splice(0)) yield event;
            if (events.length > 0 || signal.aborted) continue;
            await new Promise<void>((resolve) => {
              wake = resolve;
            });
          }
        } finally {
          watchers.delete(tell);
        }
      },
    },
    images: {
      list: async () => [],
      get: async (reference) => ({ reference, id: "i", runtime: "test" }),
      async pull({ reference }, { onProgress } = {}) {
        info("box");
        onProgress?.({ layer: "l1", status: "downloading", current: 1, total: 2 });
        return { reference, id: "i", runtime: "test" };
      },
      async build({ tag }, context, { onProgress } = {}) {
        info("box");
        let size = 0;
        for await (const chunk of context) {
          size += chunk.length;
          onProgress?.({ line: `${size} bytes` });
        }
        return { reference: tag, id: "i", runtime: "test", size };
      },
      remove: async () => {},
    },
    snapshots: {
      create: async (id) => ({ ...snapshot(), sandbox_id: info(id).id }),
      list: async () => [],
      get: async () => snapshot(),
      restore: async () => info("box"),
      remove: async () => {},
    },
    volumes: {
      create: async ({ name, labels = {} }) => ({ name, labels, runtime: "test" }),
      get: async (name) => ({ name, labels: {}, runtime: "test" }),
      list: async () => [],
      remove: async () => {},
      usage: async () => [],
    },
    prune: async () => ({ removed: [], failed: [] }),
    async stats(id) {
      info(id);
      return {
        cpu_percent: 0,
        memory_usage: 0,
        memory_limit: 0,
        memory_percent: 0,
        network_rx: 0,
        network_tx: 0,
        disk_read: 0,
        disk_write: 0,
        pid_count: 1,
        timestamp: MTIME,
      };
    },
    systemStats: async () => ({
      total_sandboxes: 1,
      running_sandboxes: 1,
      stopped_sandboxes: 0,
      total_snapshots: 0,
    }),
  };
}

function start(
  running: Set<ChildProcess>,
  cmd: readonly string[],
  env: Record<string, string> = {},
  openStdin: boolean,
  signal: AbortSignal | undefined,
): ExecSession {
  const [program = "", ...args] = cmd;
  const child = spawn(program, args, {
    env: { ...process.env, ...env },
    stdio: [openStdin ? "pipe" : "ignore", "pipe", "pipe"],
  });
  running.add(child);
  child.once("close", () => running.delete(child));
  const kill = () => child.kill("SIGKILL");
  signal?.addEventListener("abort", kill, { once: true });
  child.stdin?.on("error", () => {});
  const exit = new Promise<ExecExit>((resolve) => {
    child.once("close", (code, name) =>
      resolve(
        name === null
          ? { exit_code: code ?? 0 }
          : { exit_code: 128 + signals[name as "SIGKILL"], signal: name },
      ),
    );
  });
  return {
    output: merged(child),
    exit,
    async write(data) {
      if (child.exitCode !== null || child.signalCode !== null) return;
      if (child.stdin?.write(data) === false) await Promise.race([once(child.stdin, "drain"), exit]);
    },
    async end() {
      child.stdin?.end();
    },
    async resize() {},
    async signal(name) {
      child.kill(name);
    },
    async [Symbol.asyncDispose]() {
      kill();
      for (const stream of [child.stdout, child.stderr]) stream?.resume();
      await exit;
    },
  };
}

async function* merged(child: ChildProcess): AsyncGenerator<ExecOutput> {
  const sources = (["stdout", "stderr"] as const).map((stream) => ({
    stream,
    chunks: child[stream]?.[Symbol.asyncIterator]() as AsyncIterator<Buffer>,
  }));
  const next = (source: (typeof sources)[number]) =>
    source.chunks.next().then((result) => ({ source, result }));
  const pending = new Map(sources.map((source) => [source.stream, next(source)]));
  while (pending.size > 0) {
    const { source, result } = await Promise.race(pending.values());
    if (result.done) pending.delete(source.stream);
    else {
      pending.set(source.stream, next(source));
      yield { stream: source.stream, data: result.value };
    }
  }
}

async function* inPieces(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
}
