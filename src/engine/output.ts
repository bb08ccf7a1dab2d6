import { isUtf8 } from "node:buffer";

// `fatal` is off: bytes that are no UTF-8 become U+FFFD. A byte order mark is output like any other.
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Keeps the first bytes of a stream and forgets the rest. */
export class CappedOutput {
  readonly #maxBytes: number;
  readonly #chunks: Uint8Array[] = [];
  #bytes = 0;
  #cut = false;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  push(data: Uint8Array): void {
    const room = this.#maxBytes - this.#bytes;
    if (data.length > room) this.#cut = true;
    const kept = data.length > room ? data.subarray(0, room) : data;
    if (kept.length === 0) return;
    this.#chunks.push(kept);
    this.#bytes += kept.length;
  }

  /** The text, the bytes in base64 where they are no text, and whether something was dropped, here or `upstream`. */
  finish(upstream: boolean): { text: string; base64?: string; truncated: boolean } {
    const truncated = this.#cut || upstream;
    const all = Buffer.concat(this.#chunks);
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
