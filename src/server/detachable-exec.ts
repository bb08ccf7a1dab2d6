import type { WebSocket } from "ws";
import { EXEC_CLOSE_RETURNING, EXEC_FRAME_COST, execChannels } from "../contracts/constants.ts";
import { WarrenError } from "../contracts/errors.ts";
import {
  ExecResumableFrame,
  type ExecResumption,
  type ExecServerFrame,
  type ExecSession,
} from "../contracts/exec.ts";
import { FrameLog, FrameTally } from "../contracts/exec-frames.ts";
import type { Logger } from "../lib/log.ts";
import { parseJson } from "./body.ts";
import type { BufferBudget } from "./buffer-budget.ts";
import { binaryFrame, closeAfter, errorFrame, exitFrame, refuse, textFrame } from "./exec-frames.ts";
import { type ExecInput, type Frame, MAX_FRAME_BYTES, NOT_UNDERSTOOD } from "./exec-input.ts";
import { toWarrenError } from "./failure.ts";
import { StdinQueue } from "./stdin-queue.ts";

/** After this many heartbeats without a sign of life a connection counts as lost: a process may be stopped for a while. */
const SILENT_HEARTBEATS = 12;

/** How long a client that was replaced may take to answer our closing frame. */
const GOODBYE_MS = 1_000;

/** Code of a `close` event that no closing frame came before (RFC 6455, 7.1.5). */
const NO_CLOSING_FRAME = 1006;

export interface DetachableOptions {
  session: ExecSession;
  resumption: ExecResumption;
  /** Grace, in seconds, for a client that may never have heard that the command has started. */
  unconfirmedGraceS: number;
  /** Output that may wait for acknowledgement, in bytes; beyond it the command is held up. */
  bufferBytes: number;
  budget: BufferBudget;
  log: Logger;
  /** Kills the command. */
  kill: (reason: WarrenError) => void;
  /** No connection is left; one may come. */
  onAway: () => void;
  onEnd: () => void;
}

export interface Attachment {
  socket: WebSocket;
  input: ExecInput;
  /** How many of our frames this client has received on connections before. */
  received: number;
  /** Ask now and then whether the peer is still there. */
  probe: boolean;
}

/**
 * A command that outlives its connections. What it says is kept until a client has acknowledged it, and then the command
 * is held up; what clients send is counted, so that both directions go on at the very frame where a connection was lost.
 */
export class DetachableExec {
  readonly #options: DetachableOptions;
  readonly #sent = new FrameLog();
  readonly #got = new FrameTally();
  readonly #stdin = new StdinQueue({ pause() {}, resume() {} });
  readonly #ended: Promise<void>;
  #socket: WebSocket | undefined;
  #isGreeted = false;
  /** A client has been heard from since it was told how to come back: before that, it is not sure that anybody can. */
  #isConfirmed = false;
  #over = false;
  /** How it ended, once the last frame has been said. */
  #last: { error?: WarrenError } | undefined;
  /** Input that the command has not taken, with the cost of its frames. */
  #waiting = 0;
  #inOrder: Promise<unknown> = Promise.resolve();
  #awayTimer: NodeJS.Timeout | undefined;
  #wake: () => void = () => undefined;

  constructor(options: DetachableOptions) {
    this.#options = options;
    options.session.exit.catch(() => undefined);
    this.#ended = this.#pump();
  }

  get isAway(): boolean {
    return this.#socket === undefined;
  }

  /**
   * Goes on with this connection, at the frame where its client is; one that there was before is told so and closed.
   * @throws WarrenError `invalid_request` when the client is where it can't be. Nothing has changed then.
   */
  attach({ socket, input, received, probe }: Attachment): void {
    const { resumption } = this.#options;
    const missed = this.#sent.from(received);
    const before = this.#socket;
    clearTimeout(this.#awayTimer);
    this.#socket = socket;
    if (before) leaveBehind(before);
    const liveness = probe ? watchPeer(socket, resumption.heartbeat * 1000) : undefined;
    socket.on("error", (error) => this.#broken(socket, error));
    socket.once("close", (code) => {
      liveness?.[Symbol.dispose]();
      this.#left(socket, code);
    });
    if (this.#isGreeted) this.#tell({ type: "resumed", received: this.#got.received });
    else this.#tell({ type: "started", ...resumption });
    this.#isGreeted = true;
    this.#tell({ type: "ack", frames: this.#got.done });
    for (const frame of missed) this.#send(frame);
    if (this.#last) closeAfter(socket, this.#last.error);
    input.handOver((frame) => {
      if (socket === this.#socket) this.#take(frame);
    });
    if (socket.readyState === socket.CLOSED) this.#left(socket, NO_CLOSING_FRAME);
  }

  /** Kills the command unless it has ended, and forgets what it said. Resolves when it is gone. */
  async end(reason = new WarrenError("cancelled", "the client went away")): Promise<void> {
    if (!this.#over) {
      this.#over = true;
      clearTimeout(this.#awayTimer);
      if (this.#socket) refuse(this.#socket, reason);
      this.#release(() => this.#sent.acknowledge(this.#sent.count));
      this.#options.onEnd();
      this.#options.kill(reason);
    }
    await this.#options.session[Symbol.asyncDispose]();
    await this.#ended;
  }

  async #pump(): Promise<void> {
    const { session, log } = this.#options;
    try {
      for await (const output of session.output) {
        this.#say(binaryFrame(output));
        await this.#room();
        if (this.#over) return;
      }
      const exit = await session.exit;
      this.#sayLast(exitFrame(exit));
    } catch (cause) {
      const error = toWarrenError(cause, log);
      this.#sayLast(errorFrame(error), error);
    }
  }

  /** Holds the command up until there is room for what it says next. An empty buffer always has room. */
  async #room(): Promise<void> {
    const { budget, bufferBytes } = this.#options;
    const isFull = () => this.#sent.cost >= bufferBytes || (budget.isSpent && this.#sent.cost > 0);
    if (this.#over || !isFull()) return;
    using _ = budget.watch(() => this.#wake());
    while (!this.#over && isFull()) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  #say(frame: string | Uint8Array): void {
    if (this.#over) return;
    const before = this.#sent.cost;
    this.#sent.append(frame);
    this.#options.budget.add(this.#sent.cost - before);
    this.#send(frame);
  }

  #sayLast(frame: string, error?: WarrenError): void {
    if (this.#over) return;
    this.#say(frame);
    this.#last = error ? { error } : {};
    if (this.#socket) closeAfter(this.#socket, error);
  }

  #tell(frame: ExecServerFrame): void {
    this.#send(textFrame(frame));
  }

  /** No more than the unacknowledged frames waits in the socket's own buffer. */
  #send(frame: string | Uint8Array): void {
    this.#socket?.send(frame, () => undefined);
  }

  #release(letGo: () => void): void {
    const before = this.#sent.cost;
    letGo();
    this.#options.budget.add(this.#sent.cost - before);
    this.#wake();
  }

  #take(frame: Frame): void {
    this.#isConfirmed = true;
    try {
      this.#handle(frame);
    } catch (cause) {
      void this.end(toWarrenError(cause, this.#options.log));
    }
  }

  #handle({ data, isBinary }: Frame): void {
    const { session } = this.#options;
    if (isBinary) {
      if (data[0] !== execChannels.stdin) throw new WarrenError("invalid_request", NOT_UNDERSTOOD);
      this.#count(data.length, this.#stdin.push(session, data.subarray(1)));
      return;
    }
    const frame = parseJson(ExecResumableFrame, data.toString("utf8"), NOT_UNDERSTOOD);
    if (frame.type === "ack") {
      this.#release(() => this.#sent.acknowledge(frame.frames));
      if (this.#last && this.#sent.cost === 0) void this.end();
    } else if (frame.type === "ping") this.#tell({ type: "pong" });
    else if (frame.type === "eof") this.#count(data.length, this.#stdin.end(session));
    else if (frame.type === "resize") this.#count(data.length, session.resize(frame.cols, frame.rows));
    else this.#count(data.length, session.signal(frame.signal));
  }

  /** Counts a frame of input, and acknowledges it when it and all before it have reached the command. */
  #count(bytes: number, work: Promise<void>): void {
    const cost = bytes + EXEC_FRAME_COST;
    this.#got.receive();
    this.#waiting += cost;
    // Beside stdin a client may send as much again of signals and sizes, which must not wait behind it.
    if (this.#waiting > 2 * this.#options.resumption.window + MAX_FRAME_BYTES) {
      throw new WarrenError("invalid_request", "more input than may wait for acknowledgement");
    }
    this.#inOrder = Promise.allSettled([this.#inOrder, work]).then(() => {
      this.#waiting -= cost;
      if (this.#got.finish(cost)) this.#tell({ type: "ack", frames: this.#got.done });
    });
  }

  #broken(socket: WebSocket, error: Error & { code?: string }): void {
    // A peer that doesn't speak WebSocket, or sends more than is taken, has no second try.
    if (socket === this.#socket && error.code?.startsWith("WS_ERR_")) {
      void this.end(new WarrenError("invalid_request", NOT_UNDERSTOOD));
    }
  }

  #left(socket: WebSocket, code: number): void {
    if (socket !== this.#socket) return;
    this.#socket = undefined;
    if (this.#over) return;
    const mayReturn = code === NO_CLOSING_FRAME || code === EXEC_CLOSE_RETURNING;
    if (!mayReturn) {
      void this.end();
      return;
    }
    const { resumption, unconfirmedGraceS } = this.#options;
    const grace = this.#isConfirmed ? resumption.grace : Math.min(unconfirmedGraceS, resumption.grace);
    this.#awayTimer = setTimeout(() => void this.end(), grace * 1000);
    this.#options.onAway();
  }
}

/** Tells a client, should it still be there, that it has been replaced. What waits in the socket is let go soon, if not. */
function leaveBehind(socket: WebSocket): void {
  refuse(socket, new WarrenError("cancelled", "another connection has taken this stream over"));
  const cut = setTimeout(() => socket.terminate(), GOODBYE_MS);
  socket.once("close", () => clearTimeout(cut));
}

/** Cuts a connection whose peer has not been heard from for long, though it was asked. */
function watchPeer(socket: WebSocket, heartbeatMs: number): Disposable {
  let heardAt = performance.now();
  const heard = () => {
    heardAt = performance.now();
  };
  socket.on("message", heard);
  socket.on("pong", heard);
  const timer = setInterval(() => {
    if (performance.now() - heardAt > SILENT_HEARTBEATS * heartbeatMs) socket.terminate();
    else socket.ping();
  }, heartbeatMs);
  return { [Symbol.dispose]: () => clearInterval(timer) };
}
