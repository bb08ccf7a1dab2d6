/** The bytes of the launcher protocol: docs/wire/launcher.md. */
export const PROTOCOL = 1;

export const launcherOps = {
  hello: 1,
  run: 2,
  cancel: 3,
  start: 4,
  kill: 5,
  cgroupKill: 6,
  rmtree: 7,
  keep: 8,
  runMapped: 9,
  runUnpack: 10,
  own: 11,
  checkOutside: 12,
  copy: 13,
} as const;

/** Payload bytes of one request, id and operation included. */
export const MAX_REQUEST = 1 << 20;
/** Payload bytes of one answer: a full RUN output and its head. */
export const MAX_ANSWER = (1 << 20) + 8192;

export interface Encoder {
  u32(value: number): Encoder;
  u64(value: bigint): Encoder;
  bytes(value: Uint8Array): Encoder;
  str(value: string): Encoder;
  list(values: readonly string[]): Encoder;
  finish(): Buffer;
}

export function encoder(): Encoder {
  const parts: Uint8Array[] = [];
  const u32 = (value: number) => {
    const b = Buffer.allocUnsafe(4);
    b.writeUInt32LE(value);
    parts.push(b);
    return self;
  };
  const self: Encoder = {
    u32,
    u64(value) {
      const b = Buffer.allocUnsafe(8);
      b.writeBigUInt64LE(value);
      parts.push(b);
      return self;
    },
    bytes(value) {
      u32(value.length);
      parts.push(value);
      return self;
    },
    str: (value) => self.bytes(Buffer.from(value)),
    list(values) {
      u32(values.length);
      for (const value of values) self.str(value);
      return self;
    },
    finish: () => Buffer.concat(parts),
  };
  return self;
}

export interface Decoder {
  u8(): number;
  u32(): number;
  u64(): bigint;
  bytes(): Buffer;
  str(): string;
}

/** Reads an answer in order; a read past its end throws a RangeError. */
export function decoder(data: Buffer): Decoder {
  let at = 0;
  const take = (n: number) => {
    if (data.length - at < n) throw new RangeError("the launcher's answer is too short");
    at += n;
    return at - n;
  };
  const self: Decoder = {
    u8: () => data.readUInt8(take(1)),
    u32: () => data.readUInt32LE(take(4)),
    u64: () => data.readBigUInt64LE(take(8)),
    bytes() {
      const length = self.u32();
      const start = take(length);
      return data.subarray(start, start + length);
    },
    str: () => self.bytes().toString("utf8"),
  };
  return self;
}
