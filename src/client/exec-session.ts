import { execChannels, type SignalName } from "../contracts/constants.ts";
import { isErrorCode, WarrenError } from "../contracts/errors.ts";
import type {
  ExecClientFrame,
  ExecExit,
  ExecOutput,
  ExecSession,
  ExecStreamRequest,
} from "../contracts/exec.ts";
import { parseObject, transportError } from "./failures.ts";
import type { SocketRequest, TransportSocket } from "./transport.ts";

/** Output kept for a reader that is behind; beyond it the server is held up. */
const MAX_UNREAD_BYTES = 1024 * 1024;

/** stdin goes in pieces below the server's largest frame of 1 MiB. */
const STDIN_FRAME_BYTES = 256 * 1024;

/** Opens an exec stream. Resolves once the command has started; rejects with the server's error when it can't. */
export async function openExecSession(
  openSocket: (handlers: Pick<SocketRequest, "onMessage" | "onClose" | "signal">) => Promise<TransportSocket>,
  request: ExecStreamRequest,
  where: string,
  signal: AbortSignal | undefined,
): Promise<ExecSession> {
  const stream = new ExecStream(where);
  const giveUp = () => stream.fail(transportError(undefined, where, signal));
  if (signal?.aborted) throw transportError(undefined, where, signal);
  signal?.addEventListener("abort", giveUp, { once: true });
  stream.onEnd(() => signal?.removeEventListener("abort", giveUp));
  try {
    const socket = await openSocket({
      onMessage: (data) => stream.take(data),
      onClose: () => stream.closed(),
      ...(signal ? { signal } : {}),
    });
    stream.attach(socket);
    await socket.send(JSON.stringify({ ...request, binary: true } satisfies ExecStreamRequest));
    await stream.started;
  } catch (cause) {
    const error = transportError(cause, where, signal);
    stream.fail(error);
    throw error;
  }
  return stream;
}

/** Turns frames into the session. Frames that arrive before anybody reads are kept, up to a limit. */
class ExecStream implements ExecSession {
  readonly output: AsyncIterable<ExecOutput>;
  readonly exit: Promise<ExecExit>;
  readonly started: Promise<void>;
  readonly #where: string;
  readonly #unread: ExecOutput[] = [];
  #unreadBytes = 0;
  #socket: TransportSocket | undefined;
  #end: { error?: WarrenError } | undefined;
  #wake: () => void = () => undefined;
  #atEnd: () => void = () => undefined;
  #settle: {
    start(): void;
    refuse(error: WarrenError): void;
    exit(exit: ExecExit): void;
    lose(error: WarrenError): void;
  };

  constructor(where: string) {
    this.#where = where;
    const started = deferred<void>();
    const exit = deferred<ExecExit>();
    this.started = started.promise;
    this.exit = exit.promise;
    // A caller may look only at the output, which tells the same failure.
    this.exit.catch(() => undefined);
    this.started.catch(() => undefined);
    this.#settle = { start: started.resolve, refuse: started.reject, exit: exit.resolve, lose: exit.reject };
    this.output = this.#read();
  }

  attach(socket: TransportSocket): void {
    this.#socket = socket;
    if (this.#end) socket.close();
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
    else if (frame.type === "error") this.fail(parseError(frame));
    else if (frame.type === "stdout" || frame.type === "stderr") {
      // A server that knows no binary frames.
      this.#push({ stream: frame.type, data: new TextEncoder().encode(String(frame.data)) });
    } else this.#settle.start();
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
    this.#settle.refuse(error);
    this.#settle.lose(error);
    this.#socket?.close();
  }

  async write(data: Uint8Array): Promise<void> {
    for (let at = 0; at < data.length && !this.#end; at += STDIN_FRAME_BYTES) {
      const piece = data.subarray(at, at + STDIN_FRAME_BYTES);
      const frame = new Uint8Array(piece.length + 1);
      frame[0] = execChannels.stdin;
      frame.set(piece, 1);
      await this.#socket?.send(frame);
    }
  }

  end(): Promise<void> {
    return this.#tell({ type: "eof" });
  }

  resize(cols: number, rows: number): Promise<void> {
    return this.#tell({ type: "resize", cols, rows });
  }

  signal(name: SignalName): Promise<void> {
    return this.#tell({ type: "signal", signal: name });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.fail(new WarrenError("cancelled", "the command was given up"));
    this.#socket?.close();
  }

  async #tell(frame: ExecClientFrame): Promise<void> {
    if (!this.#end) await this.#socket?.send(JSON.stringify(frame));
  }

  #finish(exit: ExecExit): void {
    this.#settle.start();
    this.#finishWith({});
    this.#settle.exit(exit);
  }

  #finishWith(end: { error?: WarrenError }): void {
    this.#end = end;
    this.#atEnd();
    this.#wake();
    this.#socket?.resume();
  }

  #push(output: ExecOutput): void {
    this.#settle.start();
    this.#unread.push(output);
    this.#unreadBytes += output.data.length;
    if (this.#unreadBytes > MAX_UNREAD_BYTES) this.#socket?.pause();
    this.#wake();
  }

  async *#read(): AsyncGenerator<ExecOutput> {
    while (true) {
      const next = this.#unread.shift();
      if (next) {
        this.#unreadBytes -= next.data.length;
        if (this.#unreadBytes <= MAX_UNREAD_BYTES / 2) this.#socket?.resume();
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

function parseExit(frame: Record<string, unknown>): ExecExit {
  const exit: ExecExit = { exit_code: Number(frame.data) };
  if (typeof frame.signal === "string") exit.signal = frame.signal;
  if (typeof frame.timed_out === "boolean") exit.timed_out = frame.timed_out;
  if (typeof frame.oom_killed === "boolean") exit.oom_killed = frame.oom_killed;
  return exit;
}

function parseError({ data, code, hint }: Record<string, unknown>): WarrenError {
  return new WarrenError(
    isErrorCode(code) ? code : "internal",
    typeof data === "string" ? data : "the stream failed",
    typeof hint === "string" ? { hint } : {},
  );
}

function deferred<T>() {
  let resolve: (value: T) => void = () => undefined;
  let reject: (error: WarrenError) => void = () => undefined;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}
