import { type ChildProcessByStdio, spawn } from "node:child_process";
import type { Socket } from "node:net";
import type { Readable, Writable } from "node:stream";
import { getSystemErrorName } from "node:util";
import { WarrenError } from "../../contracts/errors.ts";
import type { Logger } from "../../lib/log.ts";
import { type Decoder, decoder, encoder, launcherOps, MAX_ANSWER, MAX_REQUEST, PROTOCOL } from "./wire.ts";

/** Of the launcher, and of what it runs unless it is told another. */
export const defaultEnv = { PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" };

interface Pending {
  resolve(answer: Decoder): void;
  reject(error: WarrenError): void;
}

/** One launcher process, and the calls under way to it. */
export interface Link {
  readonly alive: boolean;
  call(op: number, body: Buffer, signal?: AbortSignal): Promise<Decoder>;
  /** Has the program run from memory from now on: the same with less work, so a failure is nobody's concern. */
  keep(program: string): void;
  end(): Promise<void>;
}

/** Starts it. Failures are told to whoever calls. */
export function openLink(program: string, args: readonly string[], log: Logger): Link {
  const child: ChildProcessByStdio<Writable, Readable, null> = spawn(program, args, {
    stdio: ["pipe", "pipe", "ignore"],
    env: defaultEnv,
    cwd: "/",
  });
  const pending = new Map<number, Pending>();
  const kept = new Set<string>();
  let nextId = 1;
  let alive = true;
  let ending = false;
  const exited = new Promise<void>((resolve) => {
    child.once("close", () => resolve());
    child.once("error", () => resolve());
  });

  // An idle launcher must not keep the process from ending; a call under way must.
  const streams = [child.stdin, child.stdout] as unknown as Socket[];
  const hold = (busy: boolean) => {
    for (const handle of [child, ...streams]) busy ? handle.ref() : handle.unref();
  };
  const lost = (error: WarrenError) => {
    if (!alive) return;
    alive = false;
    if (!ending) log.error({ err: error }, "the launcher is gone");
    for (const call of pending.values()) call.reject(error);
    pending.clear();
    child.kill();
  };
  const settle = (id: number): Pending | undefined => {
    const call = pending.get(id);
    pending.delete(id);
    if (pending.size === 0) hold(false);
    return call;
  };

  child.once("error", (cause) =>
    lost(
      new WarrenError("runtime_unavailable", "the launcher could not be started", {
        hint: "run `make -C native`",
        cause,
      }),
    ),
  );
  child.once("close", () => lost(new WarrenError("runtime_failed", "the launcher ended unexpectedly")));
  child.stdin.on("error", () => {}); // "close" follows
  readFrames(child.stdout, (data) => {
    const answer = decoder(data);
    const call = settle(answer.u32());
    if (!call) return;
    if (answer.u8() === 0) return call.resolve(answer);
    const errno = answer.u32();
    call.reject(launcherError(errno, answer.str()));
  }).catch((cause: unknown) =>
    lost(new WarrenError("runtime_failed", "the launcher broke its protocol", { cause })),
  );
  hold(false);
  call(launcherOps.hello, Buffer.alloc(0)).then(
    (answer) => {
      if (answer.u32() !== PROTOCOL) {
        lost(
          new WarrenError("runtime_failed", "the launcher is of another version", { hint: "make -C native" }),
        );
      }
    },
    () => {}, // whoever called meanwhile is told
  );

  return {
    get alive() {
      return alive;
    },
    call,
    keep(program) {
      if (kept.has(program)) return;
      kept.add(program);
      call(launcherOps.keep, encoder().str(program).finish()).catch((err: unknown) =>
        log.debug({ err, program }, "a program can't be run from memory"),
      );
    },
    async end() {
      ending = true;
      hold(true);
      child.stdin.end();
      await exited;
    },
  };

  function call(op: number, body: Buffer, signal?: AbortSignal): Promise<Decoder> {
    if (body.length + 5 > MAX_REQUEST)
      return Promise.reject(new WarrenError("too_large", "a request to the launcher is too large"));
    if (signal?.aborted) return Promise.reject(new WarrenError("cancelled", "the call was cancelled"));
    const id = nextId;
    nextId = (nextId % 0xffff_fff0) + 1;
    return new Promise<Decoder>((resolve, reject) => {
      const onAbort = () => send(launcherOps.cancel, 0, encoder().u32(id).finish());
      const done = () => signal?.removeEventListener("abort", onAbort);
      signal?.addEventListener("abort", onAbort, { once: true });
      if (pending.size === 0) hold(true);
      pending.set(id, {
        resolve: (answer) => {
          done();
          resolve(answer);
        },
        reject: (error) => {
          done();
          reject(error);
        },
      });
      send(op, id, body);
    });
  }

  function send(op: number, id: number, body: Buffer): void {
    const head = Buffer.allocUnsafe(9);
    head.writeUInt32LE(body.length + 5, 0);
    head.writeUInt32LE(id, 4);
    head.writeUInt8(op, 8);
    child.stdin.write(Buffer.concat([head, body]));
  }
}

async function readFrames(stream: Readable, onFrame: (data: Buffer) => void): Promise<void> {
  let buffered: Buffer = Buffer.alloc(0);
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    buffered = buffered.length === 0 ? chunk : Buffer.concat([buffered, chunk]);
    while (buffered.length >= 4) {
      const length = buffered.readUInt32LE(0);
      if (length < 5 || length > MAX_ANSWER) throw new RangeError(`a frame of ${length} bytes`);
      if (buffered.length < 4 + length) break;
      onFrame(buffered.subarray(4, 4 + length));
      buffered = buffered.subarray(4 + length);
    }
  }
}

/** The name of the errno that the launcher answered with, such as `ENOENT`; undefined for other failures. */
export function launcherErrno(error: unknown): string | undefined {
  return error instanceof WarrenError && error.cause instanceof LauncherErrno
    ? error.cause.message
    : undefined;
}

class LauncherErrno extends Error {}

function launcherError(errno: number, what: string): WarrenError {
  let name = `errno ${errno}`;
  try {
    name = getSystemErrorName(-errno);
  } catch {
    // A number that Node has no name for.
  }
  return new WarrenError(
    name === "ENOSPC" || name === "EDQUOT" ? "no_space" : "runtime_failed",
    `${what} (${name})`,
    { cause: new LauncherErrno(name) },
  );
}
