import { statfs } from "node:fs/promises";
import { WarrenError } from "../../../contracts/errors.ts";

/** How often the disk is looked at: a fast disk takes about 500 MB between two looks. */
const INTERVAL_MS = 250;
/** What an image must leave free, so that a decompression bomb doesn't fill the host's disk. */
const RESERVE_BYTES = 1 << 30;
const RESERVE_INODES = 20_000;
/** Most that one image may take. */
const MAX_IMAGE_BYTES = 64 * 2 ** 30;
const MAX_IMAGE_INODES = 4_000_000;

/**
 * Runs a task that writes below `dir`, and cancels it when it takes too much of the disk: what must stay free, or, unless it is
 * `unbounded`, more than an image may.
 * @throws WarrenError `no_space`
 */
export async function withDiskGuard<T>(
  dir: string,
  signal: AbortSignal,
  task: (signal: AbortSignal) => Promise<T>,
  { unbounded = false } = {},
): Promise<T> {
  const before = await statfs(dir);
  const controller = new AbortController();
  let full: string | undefined;
  const look = async () => {
    const now = await statfs(dir);
    const usedBytes = (before.bavail - now.bavail) * now.bsize;
    if (now.bavail * now.bsize < RESERVE_BYTES || (now.files > 0 && now.ffree < RESERVE_INODES)) {
      full = "the disk is nearly full";
    } else if (!unbounded && (usedBytes > MAX_IMAGE_BYTES || before.ffree - now.ffree > MAX_IMAGE_INODES)) {
      full = "the image is too large";
    }
    if (full) controller.abort();
  };
  await look();
  if (full) throw new WarrenError("no_space", `${full} (${dir})`);
  const timer = setInterval(() => void look().catch(() => {}), INTERVAL_MS);
  try {
    return await task(AbortSignal.any([signal, controller.signal]));
  } catch (error) {
    if (full) throw new WarrenError("no_space", `${full} (${dir})`, { cause: error });
    throw error;
  } finally {
    clearInterval(timer);
  }
}
