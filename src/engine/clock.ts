/** Wall clock and timers, injected so that expiry can be tested without waiting. */
export interface Clock {
  /** Milliseconds since 1970. May step in either direction. */
  now(): number;
  /** Calls back once, `ms` from now. The timer keeps no process alive. */
  after(ms: number, callback: () => void): { cancel(): void };
}

export const systemClock: Clock = {
  now: () => Date.now(),
  after(ms, callback) {
    const timer = setTimeout(callback, ms);
    timer.unref();
    return { cancel: () => clearTimeout(timer) };
  },
};
