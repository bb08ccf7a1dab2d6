import { type ErrorCode, WarrenError } from "../contracts/errors.ts";

const BLOCK = 512;
/** Of the long names and attributes that precede an entry; what they may say of us is short. */
const MAX_EXTENSION_BYTES = 1024 * 1024;

/** First bytes of what an engine would unpack with a program of its own. */
const compressions: [name: string, magic: number[]][] = [
  ["gzip", [0x1f, 0x8b]],
  ["zstd", [0x28, 0xb5, 0x2f, 0xfd]],
  ["xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ["bzip2", [0x42, 0x5a, 0x68]],
  ["lz4", [0x04, 0x22, 0x4d, 0x18]],
];
/** Skippable frames of zstd, which may come before any other. */
const isSkippable = (start: Uint8Array) =>
  ((start[0] ?? 0) & 0xf0) === 0x50 && start[1] === 0x2a && start[2] === 0x4d && start[3] === 0x18;

export interface TarEntry {
  /** As it is written there. */
  name: string;
  /** POSIX's type flag; `0` for a file. */
  type: string;
  /** Of a link: what it names. */
  link: string;
  /** Bytes of its content. */
  size: number;
}

export interface TarCheck {
  /** Of a refusal. */
  code: ErrorCode;
  maxBytes: number;
  /** Told of each entry before any of its bytes are passed on. May throw. */
  onEntry?(entry: TarEntry): void;
}

/** How data is compressed that begins so; undefined: it isn't. */
export function compressionOf(start: Uint8Array): string | undefined {
  if (isSkippable(start)) return "zstd";
  return compressions.find(([, magic]) => magic.every((byte, at) => start[at] === byte))?.[0];
}

/**
 * Passes the entries of an uncompressed tar on, without the end mark, and reads its headers meanwhile. Nothing is passed on
 * before the first header has been seen.
 * @throws WarrenError of the code that is asked for, for what is compressed, no tar, broken, or cut off; `too_large`
 */
export async function* checkedEntries(
  source: AsyncIterable<Uint8Array>,
  check: TarCheck,
): AsyncGenerator<Uint8Array> {
  const walk = createWalk(check);
  let total = 0;
  for await (const chunk of source) {
    total += chunk.length;
    if (total > check.maxBytes) {
      throw new WarrenError("too_large", `the tar is larger than ${check.maxBytes} bytes`);
    }
    // What comes after the end mark is read, so that whoever sends it isn't held up.
    yield* walk.follow(chunk);
  }
  walk.end();
}

/** A tar as it comes, checked as `checkedEntries` does. What came after its end mark is gone. */
export async function* checkedTar(
  source: AsyncIterable<Uint8Array>,
  maxBytes: number,
): AsyncGenerator<Uint8Array> {
  yield* checkedEntries(source, { code: "invalid_request", maxBytes });
  yield endOfTar;
}

/** What ends a tar. */
export const endOfTar: Uint8Array = new Uint8Array(2 * BLOCK);

/** An entry that is another name of a file of the same tar. */
export function hardLink(name: string, target: string): Uint8Array {
  const header = Buffer.alloc(BLOCK);
  header.write(name, 0);
  header.write("0000644\0", 100);
  for (const at of [108, 116]) header.write("0000000\0", at);
  for (const at of [124, 136]) header.write("00000000000\0", at);
  header.write("1", 156);
  header.write(target, 157);
  header.write("ustar\x0000", 257);
  header.write(`${checksum(header).toString(8).padStart(6, "0")}\0 `, 148);
  return header;
}

function createWalk({ code, onEntry }: TarCheck) {
  let header = new Uint8Array(BLOCK);
  /** Bytes of the header that have come. */
  let filled = 0;
  /** Bytes of an entry's data that are still to come, and of the padding after them. */
  let data = 0;
  let padding = 0;
  let isFirst = true;
  let ended = false;
  /** Of the entry that comes next, by the extension before it. */
  let extension: { type: string; pieces: Uint8Array[] } | undefined;
  let next: { name?: string; link?: string; size?: number } = {};

  const refuse = (why: string, hint?: string) =>
    new WarrenError(code, why, hint === undefined ? {} : { hint });
  const broken = () => refuse("the tar is broken: a header is missing in it");

  function* follow(chunk: Uint8Array): Generator<Uint8Array> {
    for (let at = 0; at < chunk.length && !ended; ) {
      const body = data + padding;
      if (body > 0) {
        const piece = chunk.subarray(at, at + body);
        at += piece.length;
        takeBody(piece);
        yield piece;
        continue;
      }
      const piece = chunk.subarray(at, at + BLOCK - filled);
      header.set(piece, filled);
      filled += piece.length;
      at += piece.length;
      if (filled < BLOCK) continue;
      const whole = header;
      header = new Uint8Array(BLOCK);
      filled = 0;
      takeHeader(whole);
      if (!ended) yield whole;
    }
  }

  function takeBody(piece: Uint8Array): void {
    const mine = Math.min(data, piece.length);
    extension?.pieces.push(Uint8Array.from(piece.subarray(0, mine)));
    data -= mine;
    padding -= piece.length - mine;
    if (data === 0 && extension) {
      Object.assign(next, readExtension(extension.type, Buffer.concat(extension.pieces)));
      extension = undefined;
    }
  }

  function takeHeader(block: Uint8Array): void {
    const compression = isFirst ? compressionOf(block) : undefined;
    if (compression !== undefined) throw compressed(compression);
    if (block.every((byte) => byte === 0)) {
      ended = true;
      return;
    }
    if (octal(block.subarray(148, 156)) !== checksum(block)) {
      throw isFirst ? refuse("this is not a tar") : broken();
    }
    isFirst = false;
    const type = String.fromCharCode(block[156] || 0x30);
    // Such headers go on in blocks that nothing announces.
    if (type === "S")
      throw refuse("the tar has sparse files of GNU's old format", "make it without --sparse");
    const size = next.size ?? sizeOf(block);
    if (!Number.isSafeInteger(size) || size < 0) throw broken();
    // Links, devices, directories and FIFOs: whatever their size says, no data follows.
    data = /[1-6]/.test(type) ? 0 : size;
    padding = (BLOCK - (data % BLOCK)) % BLOCK;
    if (/[xLK]/.test(type)) {
      if (data > MAX_EXTENSION_BYTES) throw broken();
      extension = { type, pieces: [] };
      return;
    }
    // Of the whole archive, where nothing that concerns us stands.
    if (type === "g") return;
    onEntry?.({
      name: next.name ?? nameOf(block),
      type,
      link: next.link ?? text(block, 157, 257),
      size: data,
    });
    next = {};
  }

  const compressed = (how: string) =>
    refuse(`the tar is compressed with ${how}`, `send it as it is inside, as ${how} -dc gives it`);

  return {
    follow,
    end() {
      if (ended) return;
      const compression = compressionOf(header.subarray(0, filled));
      if (isFirst && compression !== undefined) throw compressed(compression);
      if (isFirst) throw refuse(filled === 0 ? "there is no tar" : "this is not a tar");
      throw refuse("the tar is cut off: its end is missing");
    },
  };
}

/** GNU's long names, and POSIX's `length key=value` lines. */
function readExtension(type: string, body: Buffer): { name?: string; link?: string; size?: number } {
  if (type === "L") return { name: untilNul(body) };
  if (type === "K") return { link: untilNul(body) };
  const found: { name?: string; link?: string; size?: number } = {};
  for (let at = 0; at < body.length; ) {
    const length = Number.parseInt(body.subarray(at, at + 20).toString("latin1"), 10);
    if (!(length > 0)) break;
    const record = body.subarray(at, at + length - 1).toString("utf8");
    const [, key, value = ""] = /^\d+ ([^=]*)=(.*)$/s.exec(record) ?? [];
    if (key === "path") found.name = value;
    if (key === "linkpath") found.link = value;
    if (key === "size") found.size = Number(value);
    at += length;
  }
  return found;
}

function nameOf(header: Uint8Array): string {
  const name = text(header, 0, 100);
  const prefix = text(header, 257, 263) === "ustar" ? text(header, 345, 500) : "";
  // GNU's own format has blanks there, and other things in place of the prefix.
  return prefix === "" || header[262] === 0x20 ? name : `${prefix}/${name}`;
}

function text(header: Uint8Array, from: number, to: number): string {
  return untilNul(Buffer.from(header.subarray(from, to)));
}

function untilNul(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.subarray(0, end < 0 ? bytes.length : end).toString("utf8");
}

function sizeOf(header: Uint8Array): number {
  const field = header.subarray(124, 136);
  // Base 256, for what octal digits can't hold.
  if ((field[0] ?? 0) & 0x80) return field.subarray(1).reduce((sum, byte) => sum * 256 + byte, 0);
  return octal(field);
}

function octal(field: Uint8Array): number {
  const digits = /^[ \0]*([0-7]*)[ \0]*$/.exec(Buffer.from(field).toString("latin1"))?.[1];
  return digits === undefined ? Number.NaN : Number.parseInt(digits || "0", 8);
}

/** Of a header, with blanks in the place of the sum itself. */
function checksum(header: Uint8Array): number {
  const isInField = (at: number) => at >= 148 && at < 156;
  return header.reduce((sum, byte, at) => sum + (isInField(at) ? 0x20 : byte), 0);
}
