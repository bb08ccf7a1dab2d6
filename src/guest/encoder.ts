import { WarrenError } from "../contracts/errors.ts";
import { HEADER_BYTES, MAX_DATA_BYTES, MAX_REQUEST_BYTES } from "./frames.ts";

export interface FrameEncoder {
  u8(value: number): FrameEncoder;
  u16(value: number): FrameEncoder;
  u32(value: number): FrameEncoder;
  u64(value: number | bigint): FrameEncoder;
  /** Throws `invalid_request` on a NUL. */
  str(text: string): FrameEncoder;
  list(items: readonly string[]): FrameEncoder;
  /** The frame. Throws `too_large` over the 1 MiB of a request. */
  finish(): Buffer;
}

/** Builds one frame from fields. */
export function encodeFrame(type: number): FrameEncoder {
  const parts: Buffer[] = [Buffer.alloc(HEADER_BYTES)];
  let payloadBytes = 0;
  const add = (part: Buffer): FrameEncoder => {
    parts.push(part);
    payloadBytes += part.length;
    return encoder;
  };
  const encoder: FrameEncoder = {
    u8: (value) => add(Buffer.from([value])),
    u16(value) {
      const b = Buffer.allocUnsafe(2);
      b.writeUInt16LE(value);
      return add(b);
    },
    u32(value) {
      const b = Buffer.allocUnsafe(4);
      b.writeUInt32LE(value);
      return add(b);
    },
    u64(value) {
      const b = Buffer.allocUnsafe(8);
      b.writeBigUInt64LE(BigInt(value));
      return add(b);
    },
    str(text) {
      if (text.includes("\0")) throw new WarrenError("invalid_request", "a text with a NUL byte in it");
      const bytes = Buffer.from(text);
      encoder.u32(bytes.length);
      return add(bytes);
    },
    list(items) {
      encoder.u32(items.length);
      for (const item of items) encoder.str(item);
      return encoder;
    },
    finish() {
      if (payloadBytes > MAX_REQUEST_BYTES) {
        throw new WarrenError(
          "too_large",
          `the request has ${payloadBytes} bytes, of which 1 MiB is the most`,
          {
            hint: "pass less in arguments and environment, and large data through stdin or a file",
          },
        );
      }
      const header = parts[0] as Buffer;
      header.writeUInt32LE(payloadBytes, 0);
      header[4] = type;
      return Buffer.concat(parts, HEADER_BYTES + payloadBytes);
    },
  };
  return encoder;
}

/** Cuts bytes into frames: header, slice, header, slice… Nothing is copied. */
export function* dataFrames(type: number, bytes: Uint8Array): Generator<[Buffer, Uint8Array]> {
  for (let at = 0; at < bytes.length; at += MAX_DATA_BYTES) {
    const slice = bytes.subarray(at, at + MAX_DATA_BYTES);
    const header = Buffer.allocUnsafe(HEADER_BYTES);
    header.writeUInt32LE(slice.length, 0);
    header[4] = type;
    yield [header, slice];
  }
}
