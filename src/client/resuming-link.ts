import { EXEC_FRAME_COST } from "../contracts/constants.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { ExecLinkFrame, ExecResumption, ExecStreamResume } from "../contracts/exec.ts";
import { FrameLog, FrameTally } from "../contracts/exec-frames.ts";
import { deferred } from "./deferred.ts";
import type { ExecLink } from "./exec-link.ts";
import { errorOfFrame, parseObject, transportError } from "./failures.ts";
import type { SocketRequest, TransportSocket } from "./transport.ts";

export type OpenSocket = (
  handlers: Pick<SocketRequest, "onMessage" | "onClose" | "signal">,
) => Promise<TransportSocket>;

export interface ResumingOptions {
  openSocket: OpenSocket;
  /** For messages: the server as the user named it. */
  where: string;
  /** A frame of the session's own. */
  deliver(frame: string | Uint8Array): void;
  /** The session can't go on. */
  lose(error: WarrenError): void;
  /** The connection was lost, or there is one again. */
  onConnection?: ((state: "lost" | "restored") => void) | undefined;
}

/** How long one attempt to come back may take. */
const ATTEMPT_MS = 10_000;
/** Pauses between attempts grow from the first to the second; each is shortened at random, by half at most. */
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
/** How long a server may take to answer our goodbye. */
const GOODBYE_MS = 1_000;

/** Connections of a resumable stream, one after the other. Whoever uses it sees a single one that may be slow. */
export class ResumingLink implements ExecLink {
  readonly #resumption: ExecResumption;
  readonly #options: ResumingOptions;
  readonly #sent = new FrameLog();
  readonly #got = new FrameTally();
  readonly #heartbeat: ReturnType<typeof setInterval>;
  readonly #waiting = new Set<() => void>();
  #socket: TransportSocket | undefined;
  /** Resolves when the socket that we have is closed. */
  #closed = deferred<void>();
  /** Tries to come back. */
  #attempt: AbortController | undefined;
  /** Input that keeps its order. */
  #inOrder: Promise<void> = Promise.resolve();
  #heardAt = performance.now();
  #isAsked = false;
  #isOver = false;

  /** Goes on with a socket on which the server has just told how to come back. */
  constructor(socket: TransportSocket, resumption: ExecResumption, options: ResumingOptions) {
    this.#socket = socket;
    this.#resumption = resumption;
    this.#options = options;
    this.#heartbeat = setInterval(() => this.#listen(), (resumption.heartbeat * 1000) / 2);
    // The server waits longer for a client that surely knows how to come back.
    this.#tell({ type: "ack", frames: 0 });
  }

  take(socket: TransportSocket, data: string | Uint8Array): void {
    if (socket !== this.#socket || this.#isOver) return;
    this.#heardAt = performance.now();
    this.#isAsked = false;
    if (typeof data === "string") {
      const frame = parseObject(data);
      if (frame.type === "pong") return;
      if (frame.type === "ack") {
        this.#acknowledged(Number(frame.frames));
        return;
      }
    }
    this.#got.receive();
    this.#options.deliver(data);
  }

  /** A socket is closed. When it's the one that we have and the session has not ended, it is time for another. */
  closed(socket: TransportSocket): void {
    if (socket !== this.#socket) return;
    this.#closed.resolve();
    this.#lost();
  }

  async send(frame: string | Uint8Array, urgent: boolean): Promise<void> {
    const { window } = this.#resumption;
    if (urgent) return await this.#put(frame, 2 * window);
    this.#inOrder = this.#inOrder.then(() => this.#put(frame, window));
    return await this.#inOrder;
  }

  queued(): void {}

  taken(bytes: number): void {
    // This holds the server up by what we don't acknowledge.
    if (this.#got.finish(bytes + EXEC_FRAME_COST)) this.#tell({ type: "ack", frames: this.#got.done });
  }

  async close(): Promise<void> {
    if (!this.#isOver) {
      // All that came will be read or is not wanted; in any case the server need not keep it.
      this.#tell({ type: "ack", frames: this.#got.received });
      this.#isOver = true;
      clearInterval(this.#heartbeat);
      this.#attempt?.abort();
      this.#goOn();
      if (!this.#socket) this.#closed.resolve();
      this.#socket?.close();
    }
    await within(GOODBYE_MS, this.#closed.promise);
  }

  async #put(frame: string | Uint8Array, limit: number): Promise<void> {
    while (!this.#isOver && this.#sent.cost >= limit) {
      await new Promise<void>((resolve) => this.#waiting.add(resolve));
    }
    if (this.#isOver) return;
    this.#sent.append(frame);
    void this.#socket?.send(frame);
  }

  #acknowledged(count: number): void {
    try {
      this.#sent.acknowledge(count);
      this.#goOn();
    } catch (error) {
      this.#options.lose(transportError(error, this.#options.where));
    }
  }

  #goOn(): void {
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
  }

  #tell(frame: ExecLinkFrame): void {
    if (!this.#isOver) void this.#socket?.send(JSON.stringify(frame));
  }

  /** Pages can't see the server's own heartbeat, so the question is ours. */
  #listen(): void {
    const silentMs = performance.now() - this.#heardAt;
    const heartbeatMs = this.#resumption.heartbeat * 1000;
    if (silentMs >= 2 * heartbeatMs && this.#isAsked) this.#lost();
    else if (silentMs >= heartbeatMs && !this.#isAsked) {
      this.#isAsked = true;
      this.#tell({ type: "ping" });
    }
  }

  #lost(): void {
    if (!this.#socket || this.#isOver) return;
    this.#socket.drop();
    this.#socket = undefined;
    void this.#comeBack();
  }

  async #comeBack(): Promise<void> {
    const { where, onConnection, lose } = this.#options;
    onConnection?.("lost");
    const { grace } = this.#resumption;
    const deadline = performance.now() + grace * 1000;
    let failure: WarrenError | undefined;
    let pause = FIRST_PAUSE_MS;
    while (!this.#isOver && performance.now() < deadline) {
      const attempt = new AbortController();
      this.#attempt = attempt;
      try {
        await this.#tryOnce(attempt, deadline - performance.now());
        onConnection?.("restored");
        return;
      } catch (cause) {
        failure = transportError(cause, where);
      }
      if (!failure.retryable) break;
      await within(pause * (0.5 + Math.random() / 2), aborted(attempt.signal));
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
    }
    if (this.#isOver) return;
    if (failure?.retryable === false) {
      lose(failure);
      return;
    }
    const message = `the connection to ${where} was lost while the command ran, and did not come back within ${grace} s`;
    lose(new WarrenError("engine_unavailable", message, { cause: failure }));
  }

  /** One new connection, from where the last one ended. */
  async #tryOnce(attempt: AbortController, leftMs: number): Promise<void> {
    const timer = setTimeout(() => attempt.abort(), Math.min(ATTEMPT_MS, leftMs));
    const answer = deferred<void>();
    const givenUp = aborted(attempt.signal).then(() => {
      throw new WarrenError("engine_unavailable", "the server took too long to answer");
    });
    givenUp.catch(() => undefined);
    let socket: TransportSocket | undefined;
    let isOurs = false;
    try {
      const opening = this.#options.openSocket({
        signal: attempt.signal,
        onMessage: (data) => {
          if (socket && isOurs) this.take(socket, data);
          else if (typeof data === "string") {
            const frame = parseObject(data);
            if (frame.type === "resumed") {
              isOurs = this.#adopt(socket, Number(frame.received), attempt);
              if (isOurs) answer.resolve();
              else answer.reject(new WarrenError("cancelled", "the command was given up"));
            } else if (frame.type === "error") answer.reject(errorOfFrame(frame));
          }
        },
        onClose: () => {
          answer.reject(new WarrenError("engine_unavailable", "the connection was closed"));
          if (socket) this.closed(socket);
        },
      });
      // One that opens after all is not wanted.
      opening.then((late) => attempt.signal.aborted && late.drop()).catch(() => undefined);
      socket = await Promise.race([opening, givenUp]);
      const resume: ExecStreamResume = { resume: this.#resumption.session, received: this.#got.received };
      void socket.send(JSON.stringify(resume));
      await Promise.race([answer.promise, givenUp]);
    } catch (error) {
      if (!isOurs) socket?.drop();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Goes on with a connection on which the server has told how much of our input it has. */
  #adopt(socket: TransportSocket | undefined, received: number, attempt: AbortController): boolean {
    if (!socket || this.#isOver || attempt.signal.aborted) return false;
    let missed: readonly (string | Uint8Array)[];
    try {
      missed = this.#sent.from(received);
    } catch (error) {
      this.#options.lose(transportError(error, this.#options.where));
      return false;
    }
    // Its signal would end the connection, and has done its work.
    this.#attempt = undefined;
    this.#socket = socket;
    this.#closed = deferred<void>();
    this.#heardAt = performance.now();
    this.#isAsked = false;
    this.#tell({ type: "ack", frames: this.#got.done });
    for (const frame of missed) void socket.send(frame);
    return true;
  }
}

/** Resolves with the work, or after that many milliseconds. */
async function within(ms: number, work: Promise<void>): Promise<void> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([work, late]);
  clearTimeout(timer);
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
