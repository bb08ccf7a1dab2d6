import type { ServerResponse } from "node:http";

/** How long a client may take nothing of a response before it counts as gone. Pausing a download is legitimate. */
const MAX_STALL_MS = 10 * 60_000;

/** Resolves when the response takes more, or is closed. A client that stalls is cut off. */
export function flushed(outgoing: ServerResponse): Promise<void> {
  if (outgoing.destroyed || !outgoing.writableNeedDrain) return Promise.resolve();
  return new Promise((resolve) => {
    const timer = setTimeout(() => outgoing.destroy(), MAX_STALL_MS);
    const done = () => {
      clearTimeout(timer);
      outgoing.off("drain", done);
      outgoing.off("close", done);
      resolve();
    };
    outgoing.on("drain", done);
    outgoing.on("close", done);
  });
}
