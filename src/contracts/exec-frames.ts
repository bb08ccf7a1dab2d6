import { EXEC_FRAME_COST } from "./constants.ts";
import { WarrenError } from "./errors.ts";

// How both ends of a resumable exec stream count its frames. Each side numbers what it sends from 0, over all
// connections of the stream. Counts are how many frames came before, so that "from 3" is the fourth and what follows.

export type ExecFrame = string | Uint8Array;

/** Cost, in bytes, after which what is done with is acknowledged even though more waits. */
const ACK_EVERY_BYTES = 64 * 1024;

export function frameCost(frame: ExecFrame): number {
  return frame.length + EXEC_FRAME_COST;
}

/** Frames that were sent, kept until the other side has acknowledged them: a lost connection may have lost them. */
export class FrameLog {
  #frames: ExecFrame[] = [];
  /** Number of the first one that is kept. */
  #first = 0;
  #cost = 0;

  /** How many there were, kept or not. */
  get count(): number {
    return this.#first + this.#frames.length;
  }

  /** What those cost that are kept, in bytes. */
  get cost(): number {
    return this.#cost;
  }

  append(frame: ExecFrame): void {
    this.#frames.push(frame);
    this.#cost += frameCost(frame);
  }

  /** Lets go of the first `count` of all. @throws WarrenError `invalid_request` for a count that can't be. */
  acknowledge(count: number): void {
    this.#check(count);
    for (const frame of this.#frames.splice(0, count - this.#first)) this.#cost -= frameCost(frame);
    this.#first = count;
  }

  /** All from number `count` on. @throws WarrenError `invalid_request` when they are not all here. */
  from(count: number): readonly ExecFrame[] {
    this.#check(count);
    return this.#frames.slice(count - this.#first);
  }

  #check(count: number): void {
    if (Number.isInteger(count) && count >= this.#first && count <= this.count) return;
    throw new WarrenError("invalid_request", `frame ${count} is not among ${this.#first} to ${this.count}`);
  }
}

/** The other side's frames: how many have come, and how many of them, in order, are done with. */
export class FrameTally {
  #received = 0;
  #done = 0;
  #untold = 0;

  get received(): number {
    return this.#received;
  }

  get done(): number {
    return this.#done;
  }

  receive(): void {
    this.#received += 1;
  }

  /** The next frame is done with. True when it is time to acknowledge: enough has gathered, or nothing else waits. */
  finish(cost: number): boolean {
    this.#done += 1;
    this.#untold += cost;
    if (this.#untold < ACK_EVERY_BYTES && this.#done < this.#received) return false;
    this.#untold = 0;
    return true;
  }
}
