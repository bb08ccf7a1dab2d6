import { statfs } from "node:fs/promises";
import { withDiskGuard } from "../../common/images/disk-guard.ts";
import type { ApiClient } from "../api-client.ts";
import { engineRootDir } from "../engine-root.ts";

/** Runs a task, and cancels it when it takes too much of the disk. Throws `no_space`. */
export type DiskGuard = <T>(signal: AbortSignal, task: (signal: AbortSignal) => Promise<T>) => Promise<T>;

/** No image fills the disk that the engine keeps them on, where that is one of this machine. */
export function createDiskGuard(client: ApiClient): DiskGuard {
  let rootDir: Promise<string | undefined> | undefined;
  return async (signal, task) => {
    rootDir ??= localRootDir(client);
    const dir = await rootDir;
    return dir === undefined ? await task(signal) : await withDiskGuard(dir, signal, task);
  };
}

async function localRootDir(client: ApiClient): Promise<string | undefined> {
  if (client.endpoint.kind !== "unix") return undefined;
  try {
    const dir = await engineRootDir(client);
    if (dir !== undefined) await statfs(dir);
    return dir;
  } catch {
    // It is in a virtual machine, or not to be seen by us.
    return undefined;
  }
}
