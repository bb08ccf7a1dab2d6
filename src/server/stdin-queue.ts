import type { ExecSession } from "../contracts/exec.ts";

/** Input that may wait in our memory for a command that doesn't read; beyond it nothing is read from the client. */
const MAX_WAITING_BYTES = 256 * 1024;

/** Feeds stdin in order and holds the client up while the command is behind. */
export class StdinQueue {
  readonly #flow: { pause(): void; resume(): void };
  #tail: Promise<void> = Promise.resolve();
  #waiting = 0;
  #paused = false;

  constructor(flow: { pause(): void; resume(): void }) {
    this.#flow = flow;
  }

  push(session: ExecSession, data: Uint8Array): void {
    this.#waiting += data.length;
    if (!this.#paused && this.#waiting > MAX_WAITING_BYTES) {
      this.#paused = true;
      this.#flow.pause();
    }
    this.#enqueue(async () => {
      await session.write(data);
    }, data.length);
  }

  end(session: ExecSession): void {
    this.#enqueue(() => session.end(), 0);
  }

  #enqueue(step: () => Promise<void>, bytes: number): void {
    this.#tail = this.#tail
      // Input for a command that has closed its stdin or ended is dropped, as a pipe drops it.
      .then(step)
      .catch(() => undefined)
      .then(() => {
        this.#waiting -= bytes;
        if (this.#paused && this.#waiting <= MAX_WAITING_BYTES / 2) {
          this.#paused = false;
          this.#flow.resume();
        }
      });
  }
}
