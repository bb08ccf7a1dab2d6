import { setTimeout as sleep } from "node:timers/promises";

/** Until a guest that could not be asked is asked again. */
const FIRST_RETRY_MS = 50;
const MAX_RETRY_MS = 2_000;

/** Takes connections of programs inside, one after the other, until `stop` fires. */
export async function acceptAll<C>(
  accept: (stop: AbortSignal) => Promise<C>,
  take: (connection: C) => void,
  stop: AbortSignal,
): Promise<void> {
  for (let delay = FIRST_RETRY_MS; !stop.aborted; ) {
    try {
      take(await accept(stop));
      delay = FIRST_RETRY_MS;
    } catch {
      // Its guest is gone, paused or busy; who supervises it finds out, and ends this when the sandbox has ended.
      await sleep(delay, undefined, { signal: stop }).catch(() => {});
      delay = Math.min(delay * 2, MAX_RETRY_MS);
    }
  }
}
