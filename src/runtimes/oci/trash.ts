import { randomBytes } from "node:crypto";
import { readdir, rename } from "node:fs/promises";
import { join } from "node:path";
import { noStep, type OnStep } from "../../contracts/steps.ts";
import { isGone } from "../../lib/files.ts";
import type { Logger } from "../../lib/log.ts";
import type { Launcher } from "./launcher-client.ts";

/** Deletes directories in the background: a rename takes one step, a large tree takes seconds. */
export interface Trash {
  /** The path is free when this resolves; nothing there is success. */
  discard(path: string): Promise<void>;
  /** Deletes what an earlier engine left. */
  sweep(): Promise<void>;
  /** Resolves once all is deleted. */
  idle(): Promise<void>;
}

/** Deletions at a time: they compete with sandboxes for the disk. */
const CONCURRENCY = 2;

export function createTrash(options: {
  dir: string;
  launcher: Launcher;
  log: Logger;
  onStep?: OnStep;
}): Trash {
  const { dir, launcher, log, onStep = noStep } = options;
  const queue: string[] = [];
  const running = new Set<Promise<void>>();

  const work = () => {
    while (running.size < CONCURRENCY) {
      const name = queue.shift();
      if (name === undefined) return;
      const task: Promise<void> = launcher
        .rmtree(dir, name)
        .catch((err: unknown) =>
          log.warn({ err, name }, "could not delete from the trash; the next start tries again"),
        )
        .finally(() => {
          running.delete(task);
          work();
        });
      running.add(task);
    }
  };
  const add = (name: string) => {
    queue.push(name);
    work();
  };

  return {
    async discard(path) {
      const name = randomBytes(12).toString("hex");
      try {
        await rename(path, join(dir, name));
      } catch (error) {
        if (isGone(error)) return;
        throw error;
      }
      onStep("oci.trashed");
      add(name);
    },
    async sweep() {
      for (const name of await readdir(dir)) add(name);
    },
    async idle() {
      while (running.size > 0) await Promise.all(running);
    },
  };
}
