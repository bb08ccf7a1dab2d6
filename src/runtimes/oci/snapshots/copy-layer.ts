import { WarrenError } from "../../../contracts/errors.ts";
import { lastWords } from "../../../lib/last-words.ts";
import type { Launcher } from "../launcher-client.ts";
import { needProgram } from "../programs.ts";
import { treeSize } from "../tree-size.ts";

const TIMEOUT_MS = 3_600_000;

/** Copies a layer with all that is in it, and gives the bytes that the copy takes of its disk. */
export async function copyLayer(
  launcher: Launcher,
  source: string,
  target: string,
  signal: AbortSignal,
): Promise<number> {
  const cp = await needProgram("cp", "a snapshot");
  const argv = [
    cp,
    "--archive",
    "--reflink=auto",
    "--sparse=auto",
    "--no-target-directory",
    "--",
    source,
    target,
  ];
  const { code, output, timedOut } = await launcher.run({
    argv,
    as: "namespace-root",
    timeoutMs: TIMEOUT_MS,
    signal,
  });
  if (timedOut) throw new WarrenError("deadline_exceeded", "the snapshot took too long");
  if (code !== 0)
    throw new WarrenError("runtime_failed", `the snapshot could not be made: ${lastWords(output)}`);
  return (await treeSize(launcher, target)) ?? 0;
}
