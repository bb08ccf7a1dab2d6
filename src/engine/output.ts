import { isUtf8 } from "node:buffer";

// `fatal` is off: bytes that are no UTF-8 become U+FFFD. A byte order mark is output like any other.
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Bytes of output that may be held at one time, by all commands together. */
export interface OutputBudget {
  /** False when so much is not left. */
  take(bytes: number): boolean;
  give(bytes: number): void;
}

export function createOutputBudget(maxBytes: number): OutputBudget {
  let left = maxBytes;
  return {
    take(bytes) {
      if (bytes > left) return false;
      left -= bytes;
      return true;
    },
    give(bytes) {
      left += bytes;
    },
  };
}

/** First size of a buffer. Most commands say less. */
const FIRST_BYTES = 4096;

/**
 * Keeps the first bytes of a stream and forgets the rest, also when the budget of all is used up. Copies: a guest that
 * sends one byte at a time must not cost an object for each. Disposing gives the memory back to the budget.
 */
export class CappedOutput implements Disposable {
  readonly #maxBytes: number;
  readonly #budget: OutputBudget;
  #buffer = Buffer.alloc(0);
  #bytes = 0;
  #cut = false;

  constructor(maxBytes: number, budget: OutputBudget) {
    this.#maxBytes = maxBytes;
    this.#budget = budget;
  }

  push(data: Uint8Array): void {
    if (this.#cut) return; // what follows a gap would only mislead
    const wanted = Math.min(this.#bytes + data.length, this.#maxBytes);
    if (wanted > this.#buffer.length) this.#grow(wanted);
    const room = this.#buffer.length - this.#bytes;
    const kept = data.length > room ? data.subarray(0, room) : data;
    if (kept.length < data.length) this.#cut = true;
    this.#buffer.set(kept, this.#bytes);
    this.#bytes += kept.length;
  }

  #grow(wanted: number): void {
    const size = Math.min(Math.max(wanted, this.#buffer.length * 2, FIRST_BYTES), this.#maxBytes);
    if (!this.#budget.take(size - this.#buffer.length)) return;
    const larger = Buffer.allocUnsafeSlow(size);
    this.#buffer.copy(larger, 0, 0, this.#bytes);
    this.#buffer = larger;
  }

  [Symbol.dispose](): void {
    this.#budget.give(this.#buffer.length);
    this.#buffer = Buffer.alloc(0);
    this.#bytes = 0;
  }

  /** The text, the bytes in base64 where they are no text, and whether something was dropped, here or `upstream`. */
  finish(upstream: boolean): { text: string; base64?: string; truncated: boolean } {
    const truncated = this.#cut || upstream;
    const all = this.#buffer.subarray(0, this.#bytes);
    const bytes = truncated ? withoutPartialCharacter(all) : all;
    const text = decoder.decode(bytes);
    return { text, truncated, ...(isUtf8(bytes) ? {} : { base64: bytes.toString("base64") }) };
  }
}

/** A cut may split a character of up to four bytes: text must not become binary for that. */
function withoutPartialCharacter(bytes: Buffer): Buffer {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back] ?? 0;
    if ((byte & 0xc0) === 0x80) continue; // inside of a character
    const length = byte >= 0xf5 ? 1 : byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc2 ? 2 : 1;
    const whole = bytes.subarray(0, bytes.length - back);
    // Of what is no text anyway, nothing more is dropped.
    return length > back && isUtf8(whole) ? whole : bytes;
  }
  return bytes;
}
