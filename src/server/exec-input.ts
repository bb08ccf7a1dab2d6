import type { RawData, WebSocket } from "ws";
import { execChannels } from "../contracts/constants.ts";
import { WarrenError } from "../contracts/errors.ts";
import { ExecClientFrame, type ExecSession } from "../contracts/exec.ts";
import { parseJson } from "./body.ts";
import { StdinQueue } from "./stdin-queue.ts";

/** den's sentence for a frame that can't be understood. */
export const NOT_UNDERSTOOD = "invalid request";

/** Largest frame a client may send. Input of any length comes in many. */
export const MAX_FRAME_BYTES = 1024 * 1024;

export interface Frame {
  data: Buffer;
  isBinary: boolean;
}

/** What a client of an exec stream sends: first the request, then input, signals and window sizes. */
export class ExecInput {
  readonly #socket: WebSocket;
  readonly #stdin: StdinQueue;
  readonly #first: Promise<Frame>;
  /** Frames that came in one piece with the first one; nothing more is read until the command has started. */
  readonly #early: Frame[] = [];
  #take: (frame: Frame) => void;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    this.#stdin = new StdinQueue(new Hold(socket));
    let arrived: (frame: Frame) => void = () => undefined;
    this.#first = new Promise((resolve) => {
      arrived = resolve;
    });
    this.#take = (frame) => {
      socket.pause();
      arrived(frame);
      this.#take = (early) => this.#early.push(early);
    };
    socket.on("message", (data, isBinary) => this.#take({ data: toBuffer(data), isBinary }));
  }

  first(): Promise<Frame> {
    return this.#first;
  }

  /** Hands all that comes to the command. Rejects at the first frame that can't be understood; never resolves. */
  feed(session: ExecSession): Promise<never> {
    const broken = new Promise<never>((_, reject) => {
      this.handOver((frame) => {
        try {
          this.#handle(frame, session);
        } catch (error) {
          reject(error);
        }
      });
    });
    broken.catch(() => undefined);
    return broken;
  }

  /** Gives all that comes after the first frame to `take`. */
  handOver(take: (frame: Frame) => void): void {
    this.#take = take;
    this.#socket.resume();
    for (const frame of this.#early.splice(0)) take(frame);
  }

  /** Ignores all that still comes, and lets it come: the client's closing frame may be behind it. */
  drop(): void {
    this.#take = () => undefined;
    this.#early.length = 0;
    this.#socket.resume();
  }

  #handle({ data, isBinary }: Frame, session: ExecSession): void {
    if (isBinary) {
      if (data[0] !== execChannels.stdin) throw new WarrenError("invalid_request", NOT_UNDERSTOOD);
      void this.#stdin.push(session, data.subarray(1));
      return;
    }
    const frame = parseJson(ExecClientFrame, data.toString("utf8"), NOT_UNDERSTOOD);
    // Signals and sizes overtake input that the command is slow to read; the end of input can't.
    if (frame.type === "eof") void this.#stdin.end(session);
    else if (frame.type === "resize") this.#stdin.overtake(session.resize(frame.cols, frame.rows));
    else this.#stdin.overtake(session.signal(frame.signal));
  }
}

/** Nothing is heard from a client that is held up, not even that it went away: only writing to it tells. */
const HOLD_PING_MS = 1_000;

/** Stops reading from a socket, and still finds out in time when the other side is gone. */
class Hold {
  readonly #socket: WebSocket;
  #ping: NodeJS.Timeout | undefined;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.once("close", () => clearInterval(this.#ping));
  }

  pause(): void {
    this.#socket.pause();
    this.#ping = setInterval(() => this.#socket.ping(), HOLD_PING_MS);
  }

  resume(): void {
    clearInterval(this.#ping);
    this.#socket.resume();
  }
}

function toBuffer(data: RawData): Buffer {
  if (Buffer.isBuffer(data)) return data;
  return Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data);
}
