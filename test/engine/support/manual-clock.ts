import type { Clock } from "../../../src/engine/clock.ts";

/** A clock that stands still until it is moved, in either direction. */
export interface ManualClock extends Clock {
  /** Moves time on, as it passes: timers that become due fire. */
  advance(ms: number): void;
  /** Sets the wall clock, as an administrator does: timers count on as before. */
  step(ms: number): void;
}

export function manualClock(start = Date.UTC(2030, 0, 1)): ManualClock {
  let wall = start;
  let elapsed = 0;
  const timers = new Set<{ due: number; callback: () => void }>();
  return {
    now: () => wall,
    after(ms, callback) {
      const timer = { due: elapsed + ms, callback };
      timers.add(timer);
      return { cancel: () => void timers.delete(timer) };
    },
    advance(ms) {
      const end = elapsed + ms;
      for (;;) {
        const [next] = [...timers].filter((timer) => timer.due <= end).sort((a, b) => a.due - b.due);
        if (!next) break;
        timers.delete(next);
        wall += next.due - elapsed;
        elapsed = next.due;
        next.callback();
      }
      wall += end - elapsed;
      elapsed = end;
    },
    step(ms) {
      wall += ms;
    },
  };
}
