/** Memory that the buffers of many streams share. */
export class BufferBudget {
  readonly #maxBytes: number;
  readonly #waiting = new Set<() => void>();
  #used = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get used(): number {
    return this.#used;
  }

  get isSpent(): boolean {
    return this.#used >= this.#maxBytes;
  }

  /** Counts what a buffer has gained, or lost where it's negative. */
  add(bytes: number): void {
    const wasSpent = this.isSpent;
    this.#used += bytes;
    if (!wasSpent || this.isSpent) return;
    for (const wake of this.#waiting) wake();
  }

  /** Calls `wake` each time that there is room again, until disposed. */
  watch(wake: () => void): Disposable {
    this.#waiting.add(wake);
    return { [Symbol.dispose]: () => void this.#waiting.delete(wake) };
  }
}
