import type { ExecSession } from "../contracts/exec.ts";

/** Input that may wait in our memory for a command that doesn't read; beyond it nothing is read from the client. */
const MAX_WAITING_BYTES = 256 * 1024;

/** What a frame costs us beside its bytes, so that many empty ones are held up too. */
const FRAME_COST_BYTES = 64;

/** Hands a client's frames to a command, stdin in order, and holds the client up while the command is behind. */
export class StdinQueue {
  readonly #flow: { pause(): void; resume(): void };
  #tail: Promise<void> = Promise.resolve();
  #waiting = 0;
  #paused = false;

  constructor(flow: { pause(): void; resume(): void }) {
    this.#flow = flow;
  }

  /** Resolves when the command has taken it; never rejects. */
  push(session: ExecSession, data: Uint8Array): Promise<void> {
    this.#tail = this.#settled(
      this.#tail.then(() => session.write(data)),
      data.length,
    );
    return this.#tail;
  }

  end(session: ExecSession): Promise<void> {
    this.#tail = this.#settled(
      this.#tail.then(() => session.end()),
      0,
    );
    return this.#tail;
  }

  /** Counts work that need not wait for stdin. */
  overtake(work: Promise<void>): void {
    void this.#settled(work, 0);
  }

  /** Resolves in any case: what comes for a command that has closed its stdin or ended is dropped, as a pipe drops it. */
  async #settled(work: Promise<void>, bytes: number): Promise<void> {
    const cost = bytes + FRAME_COST_BYTES;
    this.#waiting += cost;
    if (!this.#paused && this.#waiting > MAX_WAITING_BYTES) {
      this.#paused = true;
      this.#flow.pause();
    }
    await work.catch(() => undefined);
    this.#waiting -= cost;
    if (this.#paused && this.#waiting <= MAX_WAITING_BYTES / 2) {
      this.#paused = false;
      this.#flow.resume();
    }
  }
}
