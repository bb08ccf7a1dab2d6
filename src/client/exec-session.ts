import { execChannels, type SignalName } from "../contracts/constants.ts";
import { WarrenError } from "../contracts/errors.ts";
import type {
  ExecClientFrame,
  ExecExit,
  ExecOutput,
  ExecResumption,
  ExecSession,
  ExecStreamRequest,
  ExecStreamStart,
} from "../contracts/exec.ts";
import { deferred } from "./deferred.ts";
import { type ExecLink, singleLink } from "./exec-link.ts";
import { errorOfFrame, parseObject, transportError } from "./failures.ts";
import { type OpenSocket, ResumingLink } from "./resuming-link.ts";
import type { TransportSocket } from "./transport.ts";

/** stdin goes in pieces well below the server's largest frame of 1 MiB, and its window. */
const STDIN_FRAME_BYTES = 64 * 1024;

/** How much longer than the command's timeout a server may take to answer at all. */
const HANDSHAKE_GRACE_MS = 5_000;

/** The same until the command has started, of which the server tells a failure a little earlier. */
const START_GRACE_MS = 10_000;

export interface OpenExecOptions {
  openSocket: OpenSocket;
  /** For messages: the server as the user named it. */
  where: string;
  /** Ask for a command that outlives a connection that is lost. */
  isResumable: boolean;
  onConnection?: ((state: "lost" | "restored") => void) | undefined;
  signal?: AbortSignal | undefined;
}

/** Opens an exec stream. Resolves once the command has started; rejects with the server's error when it can't. */
export async function openExecSession(
  request: ExecStreamRequest,
  { openSocket, where, isResumable, onConnection, signal }: OpenExecOptions,
): Promise<ExecSession> {
  const stream = new ExecStream(where);
  if (signal?.aborted) throw transportError(undefined, where, signal);
  // Ends the connection without a word, and so only while there is no command to be told of.
  const opening = new AbortController();
  let isOpen = false;
  const giveUp = () => {
    if (!isOpen) opening.abort(signal?.reason);
    stream.fail(transportError(undefined, where, signal));
  };
  signal?.addEventListener("abort", giveUp, { once: true });
  stream.onEnd(() => signal?.removeEventListener("abort", giveUp));
  const tooLate = () => {
    const message = `${where} did not start the command within its timeout`;
    const error = new WarrenError("deadline_exceeded", message);
    opening.abort(error);
    stream.fail(error);
  };
  const limit = (graceMs: number) =>
    request.timeout ? setTimeout(tooLate, request.timeout * 1000 + graceMs) : undefined;
  let late = limit(HANDSHAKE_GRACE_MS);
  let socket: TransportSocket | undefined;
  let resuming: ResumingLink | undefined;
  try {
    socket = await openSocket({
      onMessage(data) {
        if (socket && resuming) {
          resuming.take(socket, data);
          return;
        }
        const resumption = isResumable ? parseResumption(data) : undefined;
        if (socket && resumption) {
          resuming = new ResumingLink(socket, resumption, {
            openSocket,
            where,
            onConnection,
            deliver: (frame) => stream.take(frame),
            lose: (error) => stream.fail(error),
          });
          stream.attach(resuming);
        }
        stream.take(data);
      },
      onClose() {
        if (socket && resuming) resuming.closed(socket);
        else stream.closed();
      },
      signal: opening.signal,
    });
    stream.attach(singleLink(socket));
    clearTimeout(late);
    late = limit(START_GRACE_MS);
    const start: ExecStreamStart = {
      ...request,
      binary: true,
      ...(isResumable ? { resumable: true } : {}),
    };
    await socket.send(JSON.stringify(start));
    await stream.started;
    isOpen = true;
  } catch (cause) {
    // The first frame asks for the command: without a socket nothing was asked.
    const error = transportError(cause, where, opening.signal, socket === undefined);
    stream.fail(error);
    throw error;
  } finally {
    clearTimeout(late);
  }
  return stream;
}

/** What `started` tells of coming back; undefined for any other frame, and from a server that can't. */
function parseResumption(data: string | Uint8Array): ExecResumption | undefined {
  if (typeof data !== "string") return undefined;
  const { type, session, grace, heartbeat, window } = parseObject(data);
  if (type !== "started" || typeof session !== "string") return undefined;
  return { session, grace: Number(grace), heartbeat: Number(heartbeat), window: Number(window) };
}

/** Turns frames into the session. Frames that arrive before anybody reads are kept; the link holds the server up. */
class ExecStream implements ExecSession {
  readonly output: AsyncIterable<ExecOutput>;
  readonly exit: Promise<ExecExit>;
  readonly started: Promise<void>;
  readonly #where: string;
  readonly #unread: ExecOutput[] = [];
  readonly #starting = deferred<void>();
  readonly #exiting = deferred<ExecExit>();
  #link: ExecLink | undefined;
  #end: { error?: WarrenError } | undefined;
  #wake: () => void = () => undefined;
  #atEnd: () => void = () => undefined;

  constructor(where: string) {
    this.#where = where;
    this.started = this.#starting.promise;
    // A caller may look only at the output, which tells the same failure.
    this.exit = this.#exiting.promise;
    this.output = this.#read();
  }

  attach(link: ExecLink): void {
    this.#link = link;
    if (this.#end) void link.close();
  }

  onEnd(callback: () => void): void {
    this.#atEnd = callback;
  }

  take(data: string | Uint8Array): void {
    if (this.#end) return;
    if (typeof data !== "string") {
      const stream = data[0] === execChannels.stderr ? "stderr" : "stdout";
      this.#push({ stream, data: data.subarray(1) });
      return;
    }
    const frame = parseObject(data);
    if (frame.type === "exit") this.#finish(parseExit(frame));
    else if (frame.type === "error") this.fail(errorOfFrame(frame));
    else if (frame.type === "stdout" || frame.type === "stderr") {
      // A server that knows no binary frames.
      this.#push({ stream: frame.type, data: new TextEncoder().encode(String(frame.data)) });
    } else this.#starting.resolve();
  }

  closed(): void {
    this.fail(
      new WarrenError(
        "engine_unavailable",
        `the connection to ${this.#where} was lost while the command ran`,
      ),
    );
  }

  fail(error: WarrenError): void {
    if (this.#end) return;
    this.#finishWith({ error });
    this.#starting.reject(error);
    this.#exiting.reject(error);
  }

  async write(data: Uint8Array): Promise<void> {
    for (let at = 0; at < data.length && !this.#end; at += STDIN_FRAME_BYTES) {
      const piece = data.subarray(at, at + STDIN_FRAME_BYTES);
      const frame = new Uint8Array(piece.length + 1);
      frame[0] = execChannels.stdin;
      frame.set(piece, 1);
      await this.#link?.send(frame, false);
    }
  }

  end(): Promise<void> {
    return this.#tell({ type: "eof" }, false);
  }

  resize(cols: number, rows: number): Promise<void> {
    return this.#tell({ type: "resize", cols, rows }, true);
  }

  signal(name: SignalName): Promise<void> {
    return this.#tell({ type: "signal", signal: name }, true);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.fail(new WarrenError("cancelled", "the command was given up"));
    await this.#link?.close();
  }

  async #tell(frame: ExecClientFrame, urgent: boolean): Promise<void> {
    if (!this.#end) await this.#link?.send(JSON.stringify(frame), urgent);
  }

  #finish(exit: ExecExit): void {
    this.#starting.resolve();
    this.#finishWith({});
    this.#exiting.resolve(exit);
  }

  #finishWith(end: { error?: WarrenError }): void {
    this.#end = end;
    this.#atEnd();
    this.#wake();
    void this.#link?.close();
  }

  #push(output: ExecOutput): void {
    this.#starting.resolve();
    this.#unread.push(output);
    this.#link?.queued(output.data.length);
    this.#wake();
  }

  async *#read(): AsyncGenerator<ExecOutput> {
    while (true) {
      const next = this.#unread.shift();
      if (next) {
        this.#link?.taken(next.data.length);
        yield next;
      } else if (this.#end) {
        if (this.#end.error) throw this.#end.error;
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}

/** Of an `exit` frame. */
export function parseExit(frame: Record<string, unknown>): ExecExit {
  const exit: ExecExit = { exit_code: Number(frame.data) };
  if (typeof frame.signal === "string") exit.signal = frame.signal;
  if (typeof frame.timed_out === "boolean") exit.timed_out = frame.timed_out;
  if (typeof frame.oom_killed === "boolean") exit.oom_killed = frame.oom_killed;
  if (typeof frame.denied === "number") exit.denied = frame.denied;
  return exit;
}
