import { cancelled, throwIfAborted } from "./signals.ts";

/** Lets a number of tasks run at a time; the others wait, in order of arrival. */
export interface Turnstile {
  /** @throws WarrenError `cancelled` when the signal fires while the task waits; one that runs is left alone */
  run<T>(task: () => Promise<T>, signal?: AbortSignal): Promise<T>;
}

export function createTurnstile(most: number): Turnstile {
  const waiting = new Set<() => void>();
  let running = 0;

  /** Resolves when it is their turn. */
  const turn = (signal: AbortSignal | undefined): Promise<void> =>
    new Promise((resolve, reject) => {
      const leave = () => {
        waiting.delete(enter);
        reject(cancelled(signal));
      };
      const enter = () => {
        signal?.removeEventListener("abort", leave);
        resolve();
      };
      waiting.add(enter);
      signal?.addEventListener("abort", leave, { once: true });
    });

  return {
    async run(task, signal) {
      throwIfAborted(signal);
      if (running < most) running++;
      else await turn(signal);
      try {
        return await task();
      } finally {
        const [next] = waiting;
        // Whoever leaves hands its place over, so nobody comes between.
        if (next) {
          waiting.delete(next);
          next();
        } else running--;
      }
    },
  };
}
