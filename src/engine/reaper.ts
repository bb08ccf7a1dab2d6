import type { Core } from "./core.ts";

/** Longest sleep: so late at most is an expiry noticed when the wall clock was set forward. */
const LONGEST_SLEEP_MS = 30_000;

/** A sandbox that could not be removed is tried again after this. */
const RETRY_MS = 30_000;

export interface Reaper {
  /** To be called when a deadline may have come nearer. */
  reschedule(): void;
  /** No expiry begins after this. */
  stop(): void;
}

/** Removes sandboxes whose time has come, as `expire` does it. Sleeps until the next deadline. */
export function createReaper(core: Core, expire: (id: string) => Promise<void>): Reaper {
  const { clock, log, table } = core;
  /** When those that can't be removed, or are being removed, are looked at again. */
  const notBefore = new Map<string, number>();
  let timer: { cancel(): void } | undefined;
  let stopped = false;

  function reschedule(): void {
    timer?.cancel();
    timer = undefined;
    if (stopped) return;
    let next = Number.POSITIVE_INFINITY;
    for (const record of table.all()) {
      if (record.expiresAt !== undefined) {
        next = Math.min(next, Math.max(record.expiresAt, notBefore.get(record.id) ?? 0));
      }
    }
    if (next === Number.POSITIVE_INFINITY) return;
    const sleepMs = Math.min(Math.max(next - clock.now(), 0), LONGEST_SLEEP_MS);
    timer = clock.after(sleepMs, sweep);
  }

  function sweep(): void {
    const now = clock.now();
    for (const [id, time] of notBefore) {
      if (time <= now || !table.get(id)) notBefore.delete(id);
    }
    for (const record of table.all()) {
      if (record.expiresAt === undefined || record.expiresAt > now || notBefore.has(record.id)) continue;
      notBefore.set(record.id, now + RETRY_MS);
      expire(record.id).catch((error: unknown) => {
        log.error({ err: error, sandbox: record.id }, "an expired sandbox could not be removed");
      });
    }
    reschedule();
  }

  return {
    reschedule,
    stop() {
      stopped = true;
      timer?.cancel();
    },
  };
}
