import type { ServerResponse } from "node:http";
import { breakOff, writableOf } from "./outgoing.ts";

/** How long a client may take nothing of a response before it counts as gone. Pausing a download is legitimate. */
const MAX_STALL_MS = 10 * 60_000;

/** Resolves when the response takes more, or is closed. A client that stalls is cut off. */
export function flushed(outgoing: ServerResponse): Promise<void> {
  const stream = writableOf(outgoing);
  if (stream.destroyed || !stream.writableNeedDrain) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(() => breakOff(outgoing), MAX_STALL_MS);
    const done = () => {
      clearTimeout(timer);
      stream.off("drain", done);
      stream.off("close", done);
      resolve();
    };
    stream.on("drain", done);
    stream.on("close", done);
  });
}
