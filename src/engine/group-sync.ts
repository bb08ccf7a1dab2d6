import { closeSync, fdatasync, openSync } from "node:fs";
import { promisify } from "node:util";
import { WarrenError } from "../contracts/errors.ts";

const sync = promisify(fdatasync);

/** Brings what was written to one file to disk, one fsync for all who ask while another is under way. */
export interface GroupSync {
  /** Settles once all that was written before the call is on disk. Rejects with `no_space` or `internal` when it isn't. */
  sync(): Promise<void>;
  close(): void;
}

/** The file need not be there before the first `sync`. */
export function createGroupSync(path: string): GroupSync {
  let fd: number | undefined;
  let running: Promise<void> | undefined;
  let next: Promise<void> | undefined;

  async function run(): Promise<void> {
    try {
      fd ??= openSync(path, "r");
      await sync(fd);
    } catch (cause) {
      const full = (cause as NodeJS.ErrnoException).code === "ENOSPC";
      throw new WarrenError(
        full ? "no_space" : "internal",
        "the engine's database can't be brought to disk",
        {
          cause,
        },
      );
    }
  }
  /** One that begins from now on: what is under way may have passed what was just written. */
  function begin(): Promise<void> {
    next = undefined;
    const mine = run().finally(() => {
      if (running === mine) running = undefined;
    });
    running = mine;
    return mine;
  }

  return {
    sync() {
      if (!running) return begin();
      next ??= running.then(begin, begin);
      return next;
    },
    close() {
      if (fd !== undefined) closeSync(fd);
      fd = undefined;
    },
  };
}
