import type { Duplex } from "node:stream";
import { WarrenError } from "../contracts/errors.ts";
import { cancelled, throwIfAborted } from "../lib/signals.ts";
import { brokenProtocol, createDecoder } from "./decoder.ts";
import { guestGone, guestSilent } from "./errors.ts";

/** Takes what comes back on one connection. */
export interface FrameSink {
  /** A whole frame, or a piece of a streamed one. What it throws ends the connection with that error. */
  frame(type: number, payload: Buffer): void;
  /** Called once, after which nothing comes, unless `close` came first. */
  closed(error: WarrenError): void;
}

export interface ConnectionOptions {
  signal?: AbortSignal | undefined;
  /** Milliseconds until there is a connection, and again until the first whole frame has come. */
  answerTimeoutMs: number;
  /** Milliseconds that a guest may let us wait later, with neither news for us nor room for our bytes. Absent: for ever. */
  stallTimeoutMs?: number | undefined;
  /** The guest owes no answer before `expectAnswer`: we send first, for as long as we like. */
  isUpload?: boolean;
}

/** One operation's connection. */
export interface Connection {
  /** Sends; resolves once the bytes are with the kernel. Rejects when the connection is or gets lost. */
  send(...parts: Uint8Array[]): Promise<void>;
  /** Ends our direction once all is sent: nothing more can be sent then. */
  end(): void;
  /** Stops reading: the guest feels it through the kernel's buffers. */
  pause(): void;
  resume(): void;
  readonly isPaused: boolean;
  /** Ends an upload: from here on the guest's silence is a stall. */
  expectAnswer(): void;
  /** Milliseconds since a whole frame, or a piece of a streamed one, last came. */
  quietMs(): number;
  /** Ends it: done, no more callbacks. */
  close(): void;
  /** Ends it with an error for the sink. */
  fail(error: WarrenError): void;
}

export type Connect = () => Promise<Duplex>;

/**
 * Connects, sends the request, and feeds the sink. A guest that takes no connection, does not answer, or sends anything
 * but frames ends in `guest_failed` in bounded time; an abort in `cancelled`.
 */
export async function openConnection(
  connect: Connect,
  request: Buffer,
  sink: FrameSink,
  options: ConnectionOptions,
): Promise<Connection> {
  const socket = await connectInTime(connect, options);
  // Ours to end: otherwise the guest's end of stream would end our direction too.
  socket.allowHalfOpen = true;

  let isOver = false;
  let isEnded = false;
  let isPaused = false;
  let hasAnswered = false;
  let pendingWrites = 0;
  let lastNewsAt = performance.now();

  let isOwed = options.isUpload !== true;

  const answerTimer = isOwed
    ? setTimeout(() => fail(guestSilent(options.answerTimeoutMs)), options.answerTimeoutMs)
    : undefined;
  const stallMs = options.stallTimeoutMs;
  let stallTimer: NodeJS.Timeout | undefined;
  function guardStall(): void {
    if (stallMs === undefined || isOver) return;
    // Neither bytes of ours to take nor an answer to give that we would read: the guest may be silent.
    if (pendingWrites === 0 && (isPaused || !isOwed)) {
      clearTimeout(stallTimer);
      stallTimer = undefined;
    } else if (stallTimer === undefined) {
      stallTimer = setTimeout(() => fail(guestSilent(stallMs)), stallMs);
    } else {
      stallTimer.refresh();
    }
  }

  const onAbort = (): void => fail(cancelled(options.signal));
  const onData = (chunk: Buffer): void => {
    try {
      decoder.push(chunk);
    } catch (error) {
      fail(error instanceof WarrenError ? error : brokenProtocol(String(error)));
    }
  };
  const onEnd = (): void => fail(guestGone());
  const onError = (cause: unknown): void => fail(guestGone(cause));

  const decoder = createDecoder((type, payload) => {
    if (isOver) return;
    if (!hasAnswered) {
      hasAnswered = true;
      clearTimeout(answerTimer);
    }
    // Not for any byte: a frame that comes in drops is no news before its end.
    lastNewsAt = performance.now();
    guardStall();
    sink.frame(type, payload);
  });

  function release(): void {
    isOver = true;
    clearTimeout(answerTimer);
    clearTimeout(stallTimer);
    options.signal?.removeEventListener("abort", onAbort);
  }
  function close(): void {
    if (isOver) return;
    release();
    socket.destroy();
  }
  function fail(error: WarrenError): void {
    if (isOver) return;
    release();
    socket.destroy();
    sink.closed(error);
  }

  const connection: Connection = {
    send(...parts) {
      if (isOver || isEnded) return Promise.reject(guestGone());
      return new Promise<void>((resolve, reject) => {
        pendingWrites++;
        guardStall();
        const last = parts.length - 1;
        socket.cork();
        parts.forEach((part, i) => {
          if (i < last) socket.write(part);
          else
            socket.write(part, (error) => {
              pendingWrites--;
              guardStall();
              if (error) reject(guestGone(error));
              else resolve();
            });
        });
        socket.uncork();
      });
    },
    end() {
      if (isOver || isEnded) return;
      isEnded = true;
      socket.end();
    },
    pause() {
      if (isPaused || isOver) return;
      isPaused = true;
      socket.pause();
      guardStall();
    },
    resume() {
      if (!isPaused || isOver) return;
      isPaused = false;
      lastNewsAt = performance.now();
      socket.resume();
      guardStall();
    },
    expectAnswer() {
      isOwed = true;
      guardStall();
    },
    get isPaused() {
      return isPaused;
    },
    quietMs: () => performance.now() - lastNewsAt,
    close,
    fail,
  };

  socket.on("data", onData).on("end", onEnd).on("close", onEnd).on("error", onError);
  options.signal?.addEventListener("abort", onAbort, { once: true });
  if (options.signal?.aborted) onAbort();
  // A failed write is told by the socket's own end.
  void connection.send(request).catch(() => {});
  return connection;
}

/** A connection, or `guest_failed` in time. */
export async function connectInTime(
  connect: Connect,
  options: Pick<ConnectionOptions, "signal" | "answerTimeoutMs">,
): Promise<Duplex> {
  throwIfAborted(options.signal);
  let giveUp: (error: WarrenError) => void = () => {};
  const gaveUp = new Promise<never>((_, reject) => {
    giveUp = reject;
  });
  const timer = setTimeout(() => giveUp(guestSilent(options.answerTimeoutMs)), options.answerTimeoutMs);
  const onAbort = (): void => giveUp(cancelled(options.signal));
  options.signal?.addEventListener("abort", onAbort, { once: true });
  const connecting = connect();
  try {
    return await Promise.race([connecting, gaveUp]);
  } catch (error) {
    // One that comes too late is not wanted any more.
    connecting.then(
      (late) => late.destroy(),
      () => {},
    );
    throw error instanceof WarrenError ? error : guestGone(error);
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener("abort", onAbort);
  }
}
