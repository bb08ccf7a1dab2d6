import type { GuestClient, GuestExit } from "../guest/types.ts";

/** How a watch ended: the main command did, or nobody answers any more. */
export type Ending = { exit: GuestExit } | { lost: unknown };

/** One connection per running sandbox, on which its guest tells the end of the main command, or is heard to die. */
export interface Watches {
  /** Watches anew; an earlier watch of this sandbox is dropped. `onEnd` runs at most once, and not after `finish`. */
  attach(id: string, guest: GuestClient, onEnd: (ending: Ending) => void): void;
  /** Stops watching. The main command's end, when it is known or comes within `waitMs`. */
  finish(id: string, waitMs: number): Promise<GuestExit | undefined>;
  /** Lets go of all connections. */
  close(): void;
}

interface Watch {
  stop: AbortController;
  ending: Promise<Ending>;
}

export function createWatches(): Watches {
  const watches = new Map<string, Watch>();
  return {
    attach(id, guest, onEnd) {
      watches.get(id)?.stop.abort();
      const stop = new AbortController();
      const { started, exit } = guest.waitMain({ signal: stop.signal });
      // A failed start of the watch also fails `exit`, and is told there.
      started.catch(() => {});
      const ending: Promise<Ending> = exit.then(
        (value) => ({ exit: value }),
        (error: unknown) => ({ lost: error }),
      );
      const watch = { stop, ending };
      watches.set(id, watch);
      void ending.then((how) => {
        // A late ending of a watch that nobody wants any more must not stop the sandbox that runs now.
        if (watches.get(id) === watch) onEnd(how);
      });
    },
    async finish(id, waitMs) {
      const watch = watches.get(id);
      watches.delete(id);
      if (!watch) return undefined;
      let timer: ReturnType<typeof setTimeout> | undefined;
      const late = new Promise<undefined>((resolve) => {
        timer = setTimeout(() => resolve(undefined), waitMs);
      });
      const how = await Promise.race([watch.ending, late]);
      clearTimeout(timer);
      watch.stop.abort();
      return how !== undefined && "exit" in how ? how.exit : undefined;
    },
    close() {
      for (const watch of watches.values()) watch.stop.abort();
      watches.clear();
    },
  };
}
