import { brokenProtocol } from "./decoder.ts";

export interface PayloadReader {
  u8(): number;
  u16(): number;
  u32(): number;
  u64(): number;
  i64(): number;
  /** A u32 length and that many bytes, none of them NUL. */
  str(): Buffer;
  /** Throws `guest_failed` when bytes are left over. */
  end(): void;
}

/** Reads the fields of one reply; each read beyond its end is `guest_failed`. */
export function readPayload(payload: Buffer): PayloadReader {
  let at = 0;
  const take = (n: number): number => {
    const from = at;
    if (payload.length - from < n) throw brokenProtocol("a reply that is too short");
    at += n;
    return from;
  };
  const safe = (value: bigint): number => {
    const n = Number(value);
    if (!Number.isSafeInteger(n)) throw brokenProtocol("a number out of range");
    return n;
  };
  const reader: PayloadReader = {
    u8: () => payload.readUInt8(take(1)),
    u16: () => payload.readUInt16LE(take(2)),
    u32: () => payload.readUInt32LE(take(4)),
    u64: () => safe(payload.readBigUInt64LE(take(8))),
    i64: () => safe(payload.readBigInt64LE(take(8))),
    str() {
      const length = reader.u32();
      const from = take(length);
      const bytes = payload.subarray(from, from + length);
      if (bytes.includes(0)) throw brokenProtocol("a string with a NUL byte");
      return bytes;
    },
    end() {
      if (at !== payload.length) throw brokenProtocol("a reply that is too long");
    },
  };
  return reader;
}
