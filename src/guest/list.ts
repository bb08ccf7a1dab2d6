import { WarrenError } from "../contracts/errors.ts";
import type { FileInfo } from "../contracts/files.ts";
import { createDeferred } from "../lib/deferred.ts";
import { type Connect, type ConnectionOptions, openConnection } from "./connection.ts";
import { brokenProtocol } from "./decoder.ts";
import { encodeFrame } from "./encoder.ts";
import { errnoError, guestSilent, linuxErrno, parseError } from "./errors.ts";
import { readStat, toFileInfo } from "./file-info.ts";
import { replies, requests } from "./frames.ts";
import { checkPath, joinPath, quote } from "./path.ts";
import { readPayload } from "./reader.ts";

/** Most entries of one listing, and most bytes that they may take on the wire. */
const MAX_ENTRIES = 100_000;
const MAX_LISTING_BYTES = 64 << 20;

/** The kernel's NAME_MAX. */
const MAX_NAME_BYTES = 255;

export interface ListOptions extends ConnectionOptions {
  /** Milliseconds for the whole of it: a guest that sends an entry now and then never stalls. */
  totalTimeoutMs: number;
}

/** The directory's entries, in the byte order of their names. */
export async function list(connect: Connect, path: string, options: ListOptions): Promise<FileInfo[]> {
  const directory = checkPath(path);
  const tooLarge = `it has more than ${MAX_ENTRIES} entries`;
  const entries: { name: Buffer; info: FileInfo }[] = [];
  const done = createDeferred<void>();
  let bytes = 0;
  const connection = await openConnection(
    connect,
    encodeFrame(requests.list).str(directory).u32(MAX_ENTRIES).finish(),
    {
      frame(type, payload) {
        const r = readPayload(payload);
        if (type === replies.error) {
          throw errnoError(parseError(payload).errno, quote(directory), {
            [linuxErrno.E2BIG]: ["too_large", tooLarge],
          });
        } else if (type === replies.entry && entries.length < MAX_ENTRIES) {
          bytes += payload.length;
          if (bytes > MAX_LISTING_BYTES) {
            throw new WarrenError("too_large", `the listing of ${quote(directory)} is over 64 MiB`);
          }
          const name = r.str();
          if (!isName(name)) throw brokenProtocol("an entry of a name that no file can have");
          const record = readStat(r);
          r.end();
          const text = name.toString("utf8");
          entries.push({ name, info: toFileInfo(joinPath(directory, text), text, record) });
        } else if (type === replies.end) {
          if (r.u64() !== entries.length) throw brokenProtocol("a count of entries that is wrong");
          r.end();
          done.resolve();
          connection.close();
        } else {
          throw brokenProtocol(`frame ${type} in a listing`);
        }
      },
      closed: done.reject,
    },
    options,
  );
  const timer = setTimeout(
    () => connection.fail(guestSilent(options.totalTimeoutMs)),
    options.totalTimeoutMs,
  );
  await done.promise.finally(() => clearTimeout(timer));
  return entries.sort((a, b) => Buffer.compare(a.name, b.name)).map((entry) => entry.info);
}

/** Whether it names one entry: no path, and neither the directory nor its parent. */
function isName(name: Buffer): boolean {
  if (name.length === 0 || name.length > MAX_NAME_BYTES || name.includes("/")) return false;
  return !name.equals(Buffer.from(".")) && !name.equals(Buffer.from(".."));
}
