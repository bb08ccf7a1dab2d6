import type { WatchEvent } from "../contracts/files.ts";
import { type Connect, type Connection, type ConnectionOptions, openConnection } from "./connection.ts";
import { brokenProtocol } from "./decoder.ts";
import { encodeFrame } from "./encoder.ts";
import { errnoError, linuxErrno, parseError } from "./errors.ts";
import { replies, requests } from "./frames.ts";
import { checkPath, quote } from "./path.ts";
import { createQueue } from "./queue.ts";
import { readPayload } from "./reader.ts";

const RECURSIVE = 1;
/** Events held for a reader who is behind; the guest's kernel then keeps up to 16384 more, and tells of an overflow. */
const HIGH_WATER = 1024;

const types: Readonly<Record<number, WatchEvent["type"]>> = {
  1: "create",
  2: "modify",
  3: "delete",
  4: "rename",
  5: "attrib",
  6: "overflow",
};

/** Watches from now on, whether or not anybody reads yet; ends when the reader stops or the signal fires. */
export function watch(
  connect: Connect,
  path: string,
  options: { recursive?: boolean },
  limits: ConnectionOptions,
): AsyncIterable<WatchEvent> {
  const subject = quote(checkPath(path));
  const request = encodeFrame(requests.watch)
    .str(path)
    .u32(options.recursive ? RECURSIVE : 0)
    .finish();
  let connection: Connection | undefined;
  let isWatching = false;
  let isUnwanted = false;

  const events = createQueue<WatchEvent>({
    highWater: HIGH_WATER,
    onFull: () => connection?.pause(),
    onDrain: () => connection?.resume(),
    onReturn() {
      isUnwanted = true;
      connection?.close();
    },
  });
  async function run(): Promise<void> {
    connection = await openConnection(
      connect,
      request,
      {
        frame(type, payload) {
          if (type === replies.error) {
            throw errnoError(parseError(payload).errno, subject, {
              [linuxErrno.ENOSPC]: [
                "too_large",
                "there are more directories than can be watched",
                "watch a part of it",
              ],
            });
          } else if (!isWatching && type === replies.ok) {
            isWatching = true;
          } else if (isWatching && type === replies.event) {
            events.push(parseEvent(payload), 1);
          } else {
            throw brokenProtocol(`frame ${type} to one who watches`);
          }
        },
        closed: events.fail,
      },
      limits,
    );
    if (isUnwanted) connection.close();
  }
  run().catch(events.fail);
  return events;
}

function parseEvent(payload: Buffer): WatchEvent {
  const r = readPayload(payload);
  const type = types[r.u32()];
  const path = r.str().toString("utf8");
  r.end();
  if (type === undefined) throw brokenProtocol("an event of unknown kind");
  return { type, path };
}
