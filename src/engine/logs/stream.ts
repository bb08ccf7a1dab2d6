import type { LogChunk, LogEnd, LogOptions, LogStream } from "../../contracts/logs.ts";
import { createDeferred } from "../../lib/deferred.ts";
import { linkSignals, throwIfAborted } from "../../lib/signals.ts";
import { type LogRecord, RECORD_HEAD_BYTES } from "./record.ts";
import type { LogPosition, SandboxLog, StoredRecord } from "./sandbox-log.ts";

/** Reads a log as it was asked for. `closing` ends it when the engine does. */
export function streamLog(
  log: SandboxLog,
  options: Omit<LogOptions, "signal"> & { signal?: AbortSignal | undefined },
  closing: AbortSignal,
): LogStream {
  const end = createDeferred<LogEnd>();
  async function* run(): AsyncGenerator<LogChunk> {
    using either = linkSignals(options.signal, closing);
    try {
      end.resolve(yield* chunks(log, options, either.signal));
    } catch (error) {
      end.reject(error);
      throw error;
    } finally {
      end.resolve("end"); // of whoever has left before
    }
  }
  return { end: end.promise, [Symbol.asyncIterator]: run };
}

async function* chunks(
  log: SandboxLog,
  { tail, follow, until, stream, timeoutS }: Omit<LogOptions, "signal">,
  signal: AbortSignal,
): AsyncGenerator<LogChunk, LogEnd> {
  const deadline = timeoutS === undefined ? Number.POSITIVE_INFINITY : performance.now() + timeoutS * 1000;
  const isWanted = ({ record }: StoredRecord) => stream === undefined || record.stream === stream;
  const marker = until === undefined ? undefined : createMarkerSearch(until);
  // Set up before the first look, so that nothing falls in between.
  const changes = watchChanges(log);
  using _ = changes;
  let { position, skip } = await firstPosition(log, tail, isWanted);
  for (;;) {
    const isLive = log.isLive;
    const seen = changes.count;
    for await (const stored of log.read(position)) {
      throwIfAborted(signal);
      const { record } = stored;
      const data = record.data.subarray(skip);
      skip = 0;
      position = after(stored);
      if (!isWanted(stored) || data.length === 0) continue;
      yield { stream: record.stream, data, at: new Date(record.at).toISOString() };
      if (marker?.(record, data)) return "marker";
      if (performance.now() > deadline) return "timeout";
    }
    throwIfAborted(signal);
    if (!isLive || (!follow && until === undefined)) return "end";
    if (changes.count !== seen) continue;
    const outcome = await changes.next(deadline, signal);
    throwIfAborted(signal);
    if (outcome === "timeout") return "timeout";
  }
}

function after({ position, record }: StoredRecord): LogPosition {
  return { file: position.file, at: position.at + RECORD_HEAD_BYTES + record.data.length };
}

/** Where the last `tail` lines begin, counted in what is wanted. Absent: at the beginning. */
async function firstPosition(
  log: SandboxLog,
  tail: number | undefined,
  isWanted: (stored: StoredRecord) => boolean,
): Promise<{ position: LogPosition; skip: number }> {
  if (tail === undefined) return { position: await log.start(), skip: 0 };
  if (tail === 0) return { position: await log.end(), skip: 0 };
  const starts: { position: LogPosition; skip: number }[] = [];
  let count = 0;
  const isNewLine = { stdout: true, stderr: true };
  const note = (position: LogPosition, skip: number) => {
    starts[count++ % tail] = { position, skip };
  };
  for await (const stored of log.read(await log.start())) {
    if (!isWanted(stored)) continue;
    const { position, record } = stored;
    const { data, stream } = record;
    if (data.length === 0) continue;
    if (isNewLine[stream]) note(position, 0);
    for (
      let at = data.indexOf(NEWLINE);
      at >= 0 && at + 1 < data.length;
      at = data.indexOf(NEWLINE, at + 1)
    ) {
      note(position, at + 1);
    }
    isNewLine[stream] = data[data.length - 1] === NEWLINE;
  }
  const first = count > tail ? starts[count % tail] : starts[0];
  return first ?? { position: await log.start(), skip: 0 };
}

const NEWLINE = 0x0a;

/** Tells when a text has come, in one stream, also when it came in parts. */
function createMarkerSearch(text: string): (record: LogRecord, data: Uint8Array) => boolean {
  const marker = Buffer.from(text);
  const before = { stdout: Buffer.alloc(0), stderr: Buffer.alloc(0) };
  const next = { stdout: -1, stderr: -1 };
  return ({ stream, offset, data: whole }, data) => {
    // What lies on both sides of a gap was never together.
    const held = next[stream] === offset ? before[stream] : Buffer.alloc(0);
    const joined = Buffer.concat([held, data]);
    next[stream] = offset + whole.length;
    before[stream] = Buffer.from(joined.subarray(Math.max(0, joined.length - marker.length + 1)));
    return joined.includes(marker);
  };
}

/** Counts the changes of a log, and waits for the next. */
function watchChanges(log: SandboxLog) {
  let count = 0;
  let wake = () => {};
  const unsubscribe = log.subscribe(() => {
    count++;
    wake();
  });
  return {
    get count() {
      return count;
    },
    next(deadline: number, signal: AbortSignal): Promise<"changed" | "timeout"> {
      return new Promise((resolve) => {
        const end = (outcome: "changed" | "timeout") => {
          clearTimeout(timer);
          signal.removeEventListener("abort", onAbort);
          wake = () => {};
          resolve(outcome);
        };
        const onAbort = () => end("changed");
        const left = deadline - performance.now();
        const timer =
          left > LONGEST_TIMER_MS ? undefined : setTimeout(() => end("timeout"), Math.max(0, left));
        wake = () => end("changed");
        signal.addEventListener("abort", onAbort, { once: true });
      });
    },
    [Symbol.dispose]: unsubscribe,
  };
}

/** What setTimeout takes. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
