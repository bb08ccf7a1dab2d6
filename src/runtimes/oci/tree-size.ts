import type { Launcher } from "./launcher-client.ts";
import { needProgram } from "./programs.ts";

/** Millions of files on a slow disk. */
const TIMEOUT_MS = 600_000;

/**
 * Bytes that a directory takes on its disk, as `du` counts: blocks, hard links once, no link followed. Whatever its modes are, also
 * where an ordinary user runs us. Undefined when it is not there.
 */
export async function treeSize(launcher: Launcher, path: string): Promise<number | undefined> {
  const du = await needProgram("du", "the size of a directory");
  const { output } = await launcher.run({
    argv: [du, "--summarize", "--block-size=1", "--one-file-system", "--", path],
    as: "namespace-root",
    timeoutMs: TIMEOUT_MS,
  });
  // It complains of files that vanish meanwhile, and says the sum all the same, last.
  const size = /(?:^|\n)(\d+)\t[^\n]*\n$/.exec(output.toString("latin1"))?.[1];
  return size === undefined ? undefined : Number(size);
}
