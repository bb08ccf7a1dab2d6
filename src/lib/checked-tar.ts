import { WarrenError } from "../contracts/errors.ts";

const BLOCK = 512;

/** First bytes of what people send instead of a tar, and how to make a tar of it. */
const compressions: [name: string, magic: number[], program: string][] = [
  ["gzip", [0x1f, 0x8b], "gzip"],
  ["zstd", [0x28, 0xb5, 0x2f, 0xfd], "zstd"],
  ["xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], "xz"],
  ["bzip2", [0x42, 0x5a, 0x68], "bzip2"],
];

/** Links, devices, directories and FIFOs: whatever their size says, no data follows. */
const headerOnly = new Set(["1", "2", "3", "4", "5", "6"].map((type) => type.charCodeAt(0)));
/** GNU's old sparse files, whose headers go on in blocks that nothing announces to us. */
const OLD_SPARSE = "S".charCodeAt(0);

/**
 * Passes a tar on as it comes, and follows its headers meanwhile, so that what breaks off is not taken for the whole. Nothing of
 * it is passed on before its first header has been seen.
 * @throws WarrenError `invalid_request` for what is compressed, no tar, or cut off; `too_large` beyond `maxBytes`.
 */
export async function* checkedTar(
  source: AsyncIterable<Uint8Array>,
  maxBytes: number,
): AsyncGenerator<Uint8Array> {
  const walk = createWalk();
  const early: Uint8Array[] = [];
  let total = 0;
  for await (const chunk of source) {
    total += chunk.length;
    if (total > maxBytes) throw new WarrenError("too_large", `the tar is larger than ${maxBytes} bytes`);
    walk.follow(chunk);
    if (total < BLOCK) {
      early.push(chunk);
      continue;
    }
    yield* early.splice(0);
    yield chunk;
  }
  walk.end();
}

function createWalk() {
  const header = new Uint8Array(BLOCK);
  /** Bytes of the header that have come. */
  let filled = 0;
  /** Bytes of an entry's data that are still to come, padding included. */
  let data = 0;
  let isFirst = true;
  let ended = false;

  function follow(chunk: Uint8Array): void {
    for (let at = 0; at < chunk.length && !ended; ) {
      if (data > 0) {
        const skipped = Math.min(data, chunk.length - at);
        data -= skipped;
        at += skipped;
        continue;
      }
      const taken = Math.min(BLOCK - filled, chunk.length - at);
      header.set(chunk.subarray(at, at + taken), filled);
      filled += taken;
      at += taken;
      if (filled === BLOCK) takeHeader();
    }
  }

  function takeHeader(): void {
    filled = 0;
    if (header.every((byte) => byte === 0)) {
      ended = true;
      return;
    }
    if (!hasItsChecksum(header)) throw isFirst ? notATar(header) : broken();
    isFirst = false;
    const type = header[156] ?? 0;
    if (type === OLD_SPARSE) {
      throw new WarrenError("invalid_request", "the tar has sparse files of GNU's old format", {
        hint: "make it without --sparse, or with --format=posix",
      });
    }
    const size = sizeOf(header);
    if (!Number.isSafeInteger(size) || size < 0) throw broken();
    data = headerOnly.has(type) ? 0 : Math.ceil(size / BLOCK) * BLOCK;
  }

  return {
    follow,
    end() {
      if (ended) return;
      if (isFirst) throw notATar(header.subarray(0, filled));
      throw new WarrenError("invalid_request", "the tar is cut off: its end is missing");
    },
  };
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

function hasItsChecksum(header: Uint8Array): boolean {
  const isInField = (at: number) => at >= 148 && at < 156;
  const sum = header.reduce((total, byte, at) => total + (isInField(at) ? 0x20 : byte), 0);
  return octal(header.subarray(148, 156)) === sum;
}

function notATar(start: Uint8Array): WarrenError {
  const found = compressions.find(([, magic]) => magic.every((byte, at) => start[at] === byte));
  if (found) {
    const [name, , program] = found;
    return new WarrenError("invalid_request", `the tar is compressed with ${name}`, {
      hint: `send it as it is inside: ${program} -dc`,
    });
  }
  return new WarrenError("invalid_request", start.length === 0 ? "there is no tar" : "this is not a tar", {
    hint: "send an uncompressed tar, such as `tar -c .` makes",
  });
}

function broken(): WarrenError {
  return new WarrenError("invalid_request", "the tar is broken: a header is missing in it");
}
