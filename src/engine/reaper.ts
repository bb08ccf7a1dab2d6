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
  /** Being removed, or could not be: looked at again when the timer fires, whatever the wall clock says then. */
  const pausing = new Map<string, { cancel(): void }>();
  let timer: { cancel(): void } | undefined;
  let stopped = false;

  function reschedule(): void {
    timer?.cancel();
    timer = undefined;
    if (stopped) return;
    let next = Number.POSITIVE_INFINITY;
    for (const record of table.all()) {
      if (record.expiresAt !== undefined && !pausing.has(record.id)) next = Math.min(next, record.expiresAt);
    }
    if (next === Number.POSITIVE_INFINITY) return;
    const sleepMs = Math.min(Math.max(next - clock.now(), 0), LONGEST_SLEEP_MS);
    timer = clock.after(sleepMs, sweep);
  }

  function sweep(): void {
    const now = clock.now();
    for (const record of table.all()) {
      if (record.expiresAt === undefined || record.expiresAt > now || pausing.has(record.id)) continue;
      const again = () => {
        pausing.delete(record.id);
        reschedule();
      };
      pausing.set(record.id, clock.after(RETRY_MS, again));
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
      for (const pause of pausing.values()) pause.cancel();
    },
  };
}
