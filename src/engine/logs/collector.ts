import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import type { GuestLogChunk } from "../../guest/types.ts";
import { type Core, guestOf } from "../core.ts";
import type { SandboxRecord } from "../record.ts";
import { SandboxLog } from "./sandbox-log.ts";

/** Between tries to reach a guest that lives and does not tell its output. */
const RETRY_MS = 1000;
/** How long what is left of a main command's output may take to arrive after its end. */
const DRAIN_MS = 2000;

/** Brings the output of main commands to disk, by one connection per sandbox that has one. */
export interface LogCollector {
  of(id: string): SandboxLog;
  /** From where an earlier connection has come; one that is there stays. */
  follow(record: SandboxRecord): void;
  /** The main command has ended: waits for its last output, for a bounded time. */
  drain(id: string): Promise<void>;
  /** The sandbox has ended: no more comes. */
  finish(id: string): Promise<void>;
  remove(id: string): Promise<void>;
  /** Removes what belongs to no sandbox. */
  sweep(): Promise<void>;
  close(): Promise<void>;
}

interface Following {
  run: number | undefined;
  /** Ends it at once. */
  stop: AbortController;
  /** No more tries and no more waiting: what is on its way is taken as it comes. */
  hurry: AbortController;
  done: Promise<void>;
}

export function createLogCollector(core: Core, stateDir: string): LogCollector {
  const { config, table, clock, log, onStep } = core;
  const base = join(stateDir, "logs");
  const limits = { fileBytes: config.logFileBytes, files: config.logFiles };
  const logs = new Map<string, SandboxLog>();
  const followings = new Map<string, Following>();

  const of = (id: string): SandboxLog => {
    const existing = logs.get(id);
    if (existing) return existing;
    const made = new SandboxLog(join(base, id), limits, onStep);
    logs.set(id, made);
    return made;
  };

  function follow(record: SandboxRecord): void {
    const { id, startedAt: run = 0 } = record;
    if (!record.spec?.cmd) return;
    of(id).isLive = true;
    // The guest of a paused sandbox can't answer: it is asked when it goes on.
    if (followings.get(id)?.run === run || record.state === "paused") return;
    const stop = new AbortController();
    const hurry = new AbortController();
    const following: Following = { run, stop, hurry, done: Promise.resolve() };
    followings.get(id)?.stop.abort();
    followings.set(id, following);
    following.done = collect(record, run, following).catch((error: unknown) => {
      log.error({ err: error, sandbox: id }, "the output of a main command is not kept any more");
    });
  }

  async function collect(record: SandboxRecord, run: number, { stop, hurry }: Following): Promise<void> {
    const target = of(record.id);
    const pace = createPace(config.logBytesPerS, config.logFiles * config.logFileBytes);
    while (!stop.signal.aborted) {
      try {
        const from = await target.offsets(run);
        for await (const chunk of guestOf(core, record).logs(from, { signal: stop.signal })) {
          await keep(target, run, chunk);
          await pause(pace(chunk.data.length), hurry.signal, stop.signal);
        }
        return;
      } catch (error) {
        if (stop.signal.aborted || hurry.signal.aborted) return;
        if (!(error instanceof WarrenError) || error.code !== "guest_failed") throw error;
      }
      await pause(RETRY_MS, hurry.signal, stop.signal);
      if (hurry.signal.aborted || table.get(record.id)?.startedAt !== record.startedAt) return;
    }
  }

  let isComplaining = false;
  async function keep(
    target: SandboxLog,
    run: number,
    { stream, offset, data }: GuestLogChunk,
  ): Promise<void> {
    try {
      await target.append({ stream, offset, data, run, at: clock.now() });
      isComplaining = false;
    } catch (error) {
      // A full disk costs output, and nothing else.
      if (!isComplaining) log.error({ err: error }, "output of a main command could not be kept");
      isComplaining = true;
    }
  }

  async function settle(id: string): Promise<void> {
    const following = followings.get(id);
    if (!following) return;
    following.hurry.abort();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, DRAIN_MS);
    });
    await Promise.race([following.done, late]);
    clearTimeout(timer);
  }

  async function finish(id: string): Promise<void> {
    await settle(id);
    followings.get(id)?.stop.abort();
    await followings.get(id)?.done;
    followings.delete(id);
    const ended = logs.get(id);
    // Closed, it is opened again by whoever reads; its files are not held open for nothing.
    if (ended) await ended.close();
  }

  return {
    of,
    follow,
    drain: settle,
    finish,
    async remove(id) {
      followings.get(id)?.stop.abort();
      await followings.get(id)?.done;
      followings.delete(id);
      await of(id).remove();
      logs.delete(id);
      onStep("log.removed");
    },
    async sweep() {
      const names = await readdir(base).catch((error: NodeJS.ErrnoException) => {
        if (error.code === "ENOENT") return [];
        throw error;
      });
      for (const name of names) {
        if (table.get(name) || table.isSetAside(name)) continue;
        await rm(join(base, name), { recursive: true, force: true });
      }
    },
    async close() {
      for (const { stop } of followings.values()) stop.abort();
      await Promise.all([...followings.values()].map(({ done }) => done));
      await Promise.all([...logs.values()].map((one) => one.close()));
    },
  };
}

/**
 * Milliseconds to wait after so many bytes. A flood is taken at a steady rate, and the rest of it lost inside: it must cost
 * neither the disk's time nor ours. What fits into the files may come at once.
 */
function createPace(bytesPerS: number, burst: number): (bytes: number) => number {
  let credit = burst;
  let at = performance.now();
  return (bytes) => {
    const now = performance.now();
    credit = Math.min(burst, credit + ((now - at) / 1000) * bytesPerS) - bytes;
    at = now;
    return credit >= 0 ? 0 : (-credit / bytesPerS) * 1000;
  };
}

function pause(ms: number, ...until: AbortSignal[]): Promise<void> {
  if (ms <= 0 || until.some((signal) => signal.aborted)) return Promise.resolve();
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      for (const signal of until) signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    for (const signal of until) signal.addEventListener("abort", end);
  });
}
