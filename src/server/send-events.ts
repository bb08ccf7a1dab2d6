import type { ServerResponse } from "node:http";
import { errorBody } from "../contracts/errors.ts";
import type { Logger } from "../lib/log.ts";
import { toWarrenError } from "./failure.ts";
import { flushed } from "./flushed.ts";
import { writableOf } from "./outgoing.ts";

/** Keeps proxies from closing a stream on which nothing happens. */
const KEEPALIVE_MS = 15_000;

export interface EventsOptions {
  /** So long, in milliseconds, is the first event waited for before the status is sent: a failure until then has its own. */
  firstMs?: number;
  /** Done before the last byte is sent. */
  beforeEnd?: () => Promise<void>;
}

/**
 * Server-sent events: one `data:` line of JSON each. A failure is one `event: error` with an error body, then the end.
 */
export async function sendEvents(
  outgoing: ServerResponse,
  events: AsyncIterable<unknown>,
  log: Logger,
  { firstMs, beforeEnd }: EventsOptions = {},
): Promise<void> {
  const stream = writableOf(outgoing);
  const source = events[Symbol.asyncIterator]();
  // Asked for before anything is sent, so that the watch is on its way when the client hears from us.
  let next = source.next();
  next.catch(() => undefined);
  if (firstMs !== undefined) await settledWithin(next, firstMs);
  outgoing.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
  outgoing.write(": watching\n\n");
  const keepalive = setInterval(() => outgoing.write(":\n\n"), KEEPALIVE_MS);
  try {
    for (let event = await next; !event.done; event = await next) {
      if (!outgoing.write(`data: ${JSON.stringify(event.value)}\n\n`)) await flushed(outgoing);
      if (stream.destroyed) break;
      next = source.next();
    }
    await source.return?.();
  } catch (cause) {
    if (!stream.destroyed) {
      outgoing.write(`event: error\ndata: ${JSON.stringify(errorBody(toWarrenError(cause, log)))}\n\n`);
    }
  } finally {
    clearInterval(keepalive);
    await beforeEnd?.();
    outgoing.end();
  }
}

/** Resolves when it is settled or the time is up; rejects when it has failed by then. */
async function settledWithin(work: Promise<unknown>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  try {
    await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
