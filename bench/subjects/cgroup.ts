import { readdir, rmdir } from "node:fs/promises";
import { join } from "node:path";

/** Below it lie the cgroups of all peers, in every hierarchy. */
export const BENCH_CGROUP = "warren-bench";

/** Removes what no box uses any more. */
export async function removeBenchCgroups(): Promise<void> {
  const root = "/sys/fs/cgroup";
  const hierarchies = (await readdir(root, { withFileTypes: true })).filter((entry) => entry.isDirectory());
  for (const { name } of hierarchies) await removeGroup(join(root, name, BENCH_CGROUP));
  await removeGroup(join(root, BENCH_CGROUP));
}

async function removeGroup(dir: string): Promise<void> {
  const entries = await readdir(dir, { withFileTypes: true }).catch(() => []); // not every hierarchy has it
  for (const entry of entries) if (entry.isDirectory()) await removeGroup(join(dir, entry.name));
  await rmdir(dir).catch(() => {}); // gone, or still in use by a peer that closes later
}
