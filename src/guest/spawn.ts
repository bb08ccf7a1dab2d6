import { signals } from "../contracts/constants.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { ExecOutput } from "../contracts/exec.ts";
import { createDeferred } from "../lib/deferred.ts";
import { type Connect, type FrameSink, openConnection } from "./connection.ts";
import { brokenProtocol } from "./decoder.ts";
import { dataFrames, encodeFrame } from "./encoder.ts";
import { errnoError, guestSilent, linuxErrno, parseError } from "./errors.ts";
import { killedExit, parseExit } from "./exit.ts";
import { inputs, replies, requests, spawnFlags } from "./frames.ts";
import { createQueue } from "./queue.ts";
import { readPayload } from "./reader.ts";
import type { GuestExit, GuestSession, SpawnRequest } from "./types.ts";

/** Output held for a reader who is behind, before the guest is held up. */
const OUTPUT_HIGH_WATER_BYTES = 256 << 10;
/** What an entry of the output queue costs beyond its bytes, so that one-byte pieces are bounded too. */
const ENTRY_BYTES = 128;
/** A guest answers within 200 ms of a deadline; beyond this it does not do its work. */
const DEADLINE_GRACE_MS = 10_000;
/** How long a kill waits for the guest's account of it. */
const KILL_GRACE_MS = 2_000;
/** How long it waits for the kernel to take the order, which stdin that nobody reads may be in front of. */
const KILL_SEND_MS = 200;
/** Most output of a killed tree that is taken from a guest before it must tell of the end. */
const MAX_LAST_OUTPUT_BYTES = 8 << 20;
/** Most that setTimeout takes. */
const MAX_TIMER_MS = 2 ** 31 - 1;
/** Most of a u32. */
const MAX_TIMEOUT_MS = 2 ** 32 - 1;

function encodeSpawn(request: SpawnRequest): Buffer {
  if (request.argv.length === 0) throw new WarrenError("invalid_request", "a command needs a program to run");
  const env = Object.entries(request.env);
  for (const [name] of env) {
    if (name === "" || name.includes("=")) {
      throw new WarrenError("invalid_request", `${JSON.stringify(name)} can't be the name of a variable`);
    }
  }
  const flags =
    (request.tty ? spawnFlags.tty : 0) |
    (request.stdin ? spawnFlags.stdin : 0) |
    (request.detached ? spawnFlags.detached : 0);
  return encodeFrame(requests.spawn)
    .u32(flags)
    .u32(timeoutOf(request))
    .u64(Math.max(0, Math.floor(request.maxOutputBytes ?? 0)))
    .u16(clampU16(request.tty?.cols))
    .u16(clampU16(request.tty?.rows))
    .str(request.cwd ?? "")
    .str(request.user ?? "")
    .list(request.argv)
    .list(env.map(([name, value]) => `${name}=${value}`))
    .finish();
}

const clampU16 = (n: number | undefined): number => Math.min(Math.max(Math.floor(n ?? 0), 0), 0xffff);

/** Rounded up: a fraction of a millisecond is a deadline too. */
function timeoutOf(request: SpawnRequest): number {
  const ms = Math.ceil(request.timeoutMs ?? 0);
  return Number.isFinite(ms) && ms > 0 ? Math.min(ms, MAX_TIMEOUT_MS) : 0;
}

/** Starts a command; resolves when it has started. */
export async function spawn(
  connect: Connect,
  request: SpawnRequest,
  options: { signal?: AbortSignal | undefined; answerTimeoutMs: number },
): Promise<GuestSession> {
  const frame = encodeSpawn(request);
  const started = createDeferred<number>();
  const exit = createDeferred<GuestExit>();
  let isStarted = false;
  let hasExited = false;
  let isKilled = false;
  let lastOutputBytes = 0;
  let deadlineTimer: NodeJS.Timeout | undefined;

  const output = createQueue<ExecOutput>({
    highWater: OUTPUT_HIGH_WATER_BYTES,
    onFull() {
      // The exit is behind it.
      if (!isKilled) connection.pause();
    },
    onDrain: () => connection.resume(),
  });

  function onExit(result: GuestExit): void {
    hasExited = true;
    clearTimeout(deadlineTimer);
    exit.resolve(result);
    output.end();
    connection.close();
  }

  const sink: FrameSink = {
    frame(type, payload) {
      if (!isStarted) {
        if (type === replies.error) throw spawnError(payload, request);
        if (type !== replies.started) throw brokenProtocol(`frame ${type} before a command had started`);
        isStarted = true;
        started.resolve(parseStarted(payload));
        watchDeadline();
      } else if (type === replies.stdout || type === replies.stderr) {
        if (isKilled) lastOutputBytes += payload.length + ENTRY_BYTES;
        if (lastOutputBytes > MAX_LAST_OUTPUT_BYTES)
          throw brokenProtocol("output of a command that was killed");
        const stream = type === replies.stdout || request.tty !== undefined ? "stdout" : "stderr";
        output.push({ stream, data: payload }, payload.length + ENTRY_BYTES);
      } else if (type === replies.exit) {
        onExit(parseExit(payload));
      } else {
        throw brokenProtocol(`frame ${type} while a command ran`);
      }
    },
    closed(error) {
      clearTimeout(deadlineTimer);
      started.reject(error);
      // A lost connection ends the tree as surely as the answer to KILL would have told.
      if (isKilled) {
        hasExited = true;
        exit.resolve(killedExit());
        output.end();
      } else {
        exit.reject(error);
        output.fail(error);
      }
    },
  };
  const connection = await openConnection(connect, frame, sink, options);

  /** The guest keeps the deadline. This is for one that does not; a reader who holds the output up is no fault of it. */
  function watchDeadline(): void {
    const timeoutMs = timeoutOf(request);
    if (timeoutMs === 0) return;
    const check = (): void => {
      if (connection.isPaused || connection.quietMs() < DEADLINE_GRACE_MS) {
        deadlineTimer = setTimeout(check, DEADLINE_GRACE_MS);
      } else {
        connection.fail(guestSilent(timeoutMs + DEADLINE_GRACE_MS));
      }
    };
    deadlineTimer = setTimeout(check, Math.min(timeoutMs + DEADLINE_GRACE_MS, MAX_TIMER_MS));
  }

  async function send(...parts: Uint8Array[]): Promise<void> {
    if (hasExited) return;
    try {
      await connection.send(...parts);
    } catch (error) {
      // Bytes for a command that has just ended are lost as they are in a pipe; a lost guest is told by `exit` too.
      await exit.promise.catch(() => {
        throw error;
      });
    }
  }

  async function kill(): Promise<void> {
    if (hasExited || isKilled) return exit.promise.then(() => {});
    isKilled = true;
    connection.resume();
    const lose = (): void => connection.fail(guestSilent(KILL_GRACE_MS));
    let timer = setTimeout(lose, KILL_SEND_MS);
    const sent = connection.send(encodeFrame(inputs.kill).finish());
    // An end of stream is seen even behind stdin that the command does not take.
    if (!request.detached) connection.end();
    sent.then(
      () => {
        clearTimeout(timer);
        if (!hasExited) timer = setTimeout(lose, KILL_GRACE_MS);
      },
      // A lost connection settles the exit.
      () => {},
    );
    try {
      await exit.promise;
    } finally {
      clearTimeout(timer);
    }
  }

  return {
    pid: await started.promise,
    output,
    exit: exit.promise,
    kill,
    async write(data) {
      if (!request.stdin && request.tty === undefined) {
        throw new WarrenError("invalid_request", "the command was started without a stdin to write to", {
          hint: "set stdin",
        });
      }
      for (const parts of dataFrames(inputs.data, data)) await send(...parts);
    },
    end: () => send(encodeFrame(inputs.eof).finish()),
    resize: (cols, rows) => send(encodeFrame(inputs.resize).u16(clampU16(cols)).u16(clampU16(rows)).finish()),
    signal: (name) => send(encodeFrame(inputs.signal).u32(signals[name]).finish()),
    async [Symbol.asyncDispose]() {
      output.discard();
      await kill().catch(() => {});
      connection.close();
    },
  };
}

function parseStarted(payload: Buffer): number {
  const r = readPayload(payload);
  const pid = r.u32();
  r.end();
  return pid;
}

function spawnError(payload: Buffer, request: SpawnRequest): WarrenError {
  const { errno, what } = parseError(payload);
  const isAboutCwd = request.cwd !== undefined && what === request.cwd;
  const subject = isAboutCwd
    ? `working directory ${what}`
    : errno === linuxErrno.ESRCH
      ? `user ${what}`
      : what;
  return errnoError(errno, subject, {
    [linuxErrno.EINVAL]: ["invalid_request", "the sandbox's guest does not take it"],
  });
}
