import { run } from "../../lib/run.ts";
import type { Flavor } from "./flavor.ts";

/** Millions of files on a slow disk. */
const TIMEOUT_MS = 600_000;

/**
 * Bytes that these directories of this machine take on disk, by their paths. What can't be measured is missing. `owner`: what `du`
 * is run with where we may not see all files there ourselves.
 */
export async function diskUsage(
  paths: readonly string[],
  owner: Flavor["asOwner"] = { argv: [], env: { PATH: process.env.PATH ?? "/usr/bin:/bin" } },
): Promise<Map<string, number>> {
  const sizes = new Map<string, number>();
  if (paths.length === 0) return sizes;
  const du = ["du", "--summarize", "--block-size=1", "--one-file-system", "--null", "--", ...paths];
  const [program = "", ...args] = [...owner.argv, ...du];
  const { code, stdout, truncated } = await run(program, args, {
    env: owner.env,
    timeoutMs: TIMEOUT_MS,
    maxOutputBytes: paths.reduce((sum, path) => sum + Buffer.byteLength(path) + 32, 0),
  });
  // What it was not let into is not counted, and it says so by its code alone.
  if (code !== 0 || truncated) return sizes;
  for (const line of stdout.toString("utf8").split("\0")) {
    const [, size, path = ""] = /^(\d+)\t(.*)$/s.exec(line) ?? [];
    if (size !== undefined) sizes.set(path, Number(size));
  }
  return sizes;
}
