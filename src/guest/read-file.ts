import { WarrenError } from "../contracts/errors.ts";
import type { FileDownload, FileInfo, ReadFileOptions } from "../contracts/files.ts";
import { createDeferred } from "../lib/deferred.ts";
import { type Connect, type ConnectionOptions, openConnection } from "./connection.ts";
import { brokenProtocol } from "./decoder.ts";
import { encodeFrame } from "./encoder.ts";
import { errnoError, notAFile, parseError } from "./errors.ts";
import { readStat, toFileInfo } from "./file-info.ts";
import { replies, requests } from "./frames.ts";
import { baseName, checkPath, quote } from "./path.ts";
import { createQueue } from "./queue.ts";
import { readPayload } from "./reader.ts";

/** Bytes held for a reader who is behind, before the guest is held up. */
const BODY_HIGH_WATER_BYTES = 512 << 10;
/** What a piece costs beyond its bytes. */
const PIECE_BYTES = 128;
/** "To the end." */
const ALL = 2n ** 64n - 1n;

/** Resolves once the file is open, with its body still to be read. */
export async function readFile(
  connect: Connect,
  path: string,
  options: ReadFileOptions,
  limits: ConnectionOptions,
): Promise<FileDownload> {
  const subject = quote(checkPath(path));
  const opened = createDeferred<FileInfo>();
  let isOpen = false;
  let received = 0;

  const body = createQueue<Uint8Array>({
    highWater: BODY_HIGH_WATER_BYTES,
    onFull: () => connection.pause(),
    onDrain: () => connection.resume(),
    onReturn: () => connection.close(),
  });
  const connection = await openConnection(
    connect,
    encodeFrame(requests.read)
      .str(path)
      .u64(checkCount(options.offset ?? 0, "offset"))
      .u64(options.length === undefined ? ALL : checkCount(options.length, "length"))
      .finish(),
    {
      frame(type, payload) {
        if (type === replies.error) {
          throw errnoError(parseError(payload).errno, subject, notAFile);
        } else if (!isOpen && type === replies.stat) {
          isOpen = true;
          const r = readPayload(payload);
          const record = readStat(r);
          r.end();
          opened.resolve(toFileInfo(path, baseName(path), record));
        } else if (isOpen && type === replies.data) {
          received += payload.length;
          if (options.length !== undefined && received > options.length) {
            throw brokenProtocol("more of a file than was asked for");
          }
          body.push(payload, payload.length + PIECE_BYTES);
        } else if (isOpen && type === replies.end) {
          const r = readPayload(payload);
          if (r.u64() !== received) throw brokenProtocol("a length that is wrong");
          r.end();
          body.end();
          connection.close();
        } else {
          throw brokenProtocol(`frame ${type} in a file`);
        }
      },
      closed(error) {
        opened.reject(error);
        body.fail(error);
      },
    },
    limits,
  );
  return { info: await opened.promise, body };
}

function checkCount(value: number, what: string): number {
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new WarrenError("invalid_request", `${what} must be a whole number of bytes`);
}
