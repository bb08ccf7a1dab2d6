import { crc32 } from "node:zlib";

/** One piece of a main command's output, as it is kept. */
export interface LogRecord {
  stream: "stdout" | "stderr";
  /** Milliseconds since 1970, when the engine got it. */
  at: number;
  /** Which start of the sandbox it belongs to: when that was. */
  run: number;
  /** Of its first byte, in its stream of that run. */
  offset: number;
  data: Uint8Array;
}

/** Where a file begins: what was known of the run that it was begun in. */
export interface LogFileHead {
  run: number;
  stdout: number;
  stderr: number;
}

/**
 * A file is a head and records, in the host's own byte order of no consequence: all numbers are little endian.
 * head: 8 bytes of magic, f64 run, f64 offset of stdout, f64 of stderr.
 * record: u32 bytes of data, u32 CRC-32 of all that follows, u64 stream (1, 2), f64 at, f64 run, f64 offset, data.
 */
const MAGIC = Buffer.from("warrlog1");
export const FILE_HEAD_BYTES = 32;
export const RECORD_HEAD_BYTES = 40;
/** A piece from the guest is at most 64 KiB. More is no record of ours. */
export const MAX_RECORD_DATA = 64 * 1024;

const streams = { 1: "stdout", 2: "stderr" } as const;

export function encodeFileHead({ run, stdout, stderr }: LogFileHead): Buffer {
  const head = Buffer.alloc(FILE_HEAD_BYTES);
  MAGIC.copy(head);
  [run, stdout, stderr].forEach((value, i) => void head.writeDoubleLE(value, 8 + 8 * i));
  return head;
}

/** undefined for what is no file of ours. */
export function decodeFileHead(bytes: Buffer): LogFileHead | undefined {
  if (bytes.length < FILE_HEAD_BYTES || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) return undefined;
  return { run: bytes.readDoubleLE(8), stdout: bytes.readDoubleLE(16), stderr: bytes.readDoubleLE(24) };
}

export function encodeRecord(record: LogRecord): Buffer {
  const bytes = Buffer.alloc(RECORD_HEAD_BYTES + record.data.length);
  bytes.writeUInt32LE(record.data.length, 0);
  bytes.writeUInt32LE(record.stream === "stdout" ? 1 : 2, 8);
  bytes.writeDoubleLE(record.at, 16);
  bytes.writeDoubleLE(record.run, 24);
  bytes.writeDoubleLE(record.offset, 32);
  bytes.set(record.data, RECORD_HEAD_BYTES);
  bytes.writeUInt32LE(crc32(bytes.subarray(8)), 4);
  return bytes;
}

/** The record at `at` and its length; undefined when it is not whole, as the last one of a file after a crash. */
export function decodeRecord(bytes: Buffer, at: number): { record: LogRecord; length: number } | undefined {
  if (bytes.length - at < RECORD_HEAD_BYTES) return undefined;
  const size = bytes.readUInt32LE(at);
  const length = RECORD_HEAD_BYTES + size;
  if (size > MAX_RECORD_DATA || bytes.length - at < length) return undefined;
  const whole = bytes.subarray(at, at + length);
  const stream = streams[whole.readUInt32LE(8) as 1 | 2];
  if (stream === undefined || crc32(whole.subarray(8)) !== whole.readUInt32LE(4)) return undefined;
  const record = {
    stream,
    at: whole.readDoubleLE(16),
    run: whole.readDoubleLE(24),
    offset: whole.readDoubleLE(32),
    data: whole.subarray(RECORD_HEAD_BYTES),
  };
  return { record, length };
}
