import { WarrenError } from "../contracts/errors.ts";

/**
 * Runs a task once for all who ask for the same key meanwhile. A caller that gives up gets `cancelled`; the task is
 * cancelled when all of its callers have given up.
 */
export function createSingleFlight<T>() {
  const flights = new Map<string, { promise: Promise<T>; waiting: number; controller: AbortController }>();
  return {
    async run(key: string, task: (signal: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> {
      if (signal?.aborted) throw cancelled();
      let flight = flights.get(key);
      if (!flight) {
        const controller = new AbortController();
        const promise = task(controller.signal).finally(() => flights.delete(key));
        flight = { promise, waiting: 0, controller };
        flights.set(key, flight);
      }
      const mine = flight;
      mine.waiting++;
      let onAbort: (() => void) | undefined;
      const aborted = new Promise<never>((_resolve, reject) => {
        onAbort = () => reject(cancelled());
        signal?.addEventListener("abort", onAbort, { once: true });
      });
      try {
        return await Promise.race([mine.promise, aborted]);
      } finally {
        if (onAbort) signal?.removeEventListener("abort", onAbort);
        mine.waiting--;
        if (mine.waiting === 0 && signal?.aborted) {
          mine.promise.catch(() => {});
          if (flights.get(key) === mine) flights.delete(key);
          mine.controller.abort();
        }
      }
    },
    /** Cancels what runs and waits for it. */
    async close(): Promise<void> {
      const running = [...flights.values()];
      for (const flight of running) flight.controller.abort();
      await Promise.allSettled(running.map((flight) => flight.promise));
    },
  };
}

function cancelled(): WarrenError {
  return new WarrenError("cancelled", "the call was cancelled");
}
