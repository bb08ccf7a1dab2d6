import { rm } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { silentLogger } from "../../lib/log.ts";
import { createLauncher } from "./launcher-client.ts";
import { findSubordinateIds } from "./subordinate-ids.ts";

/** Deletes a state directory that no engine uses. An ordinary user's holds files of subordinate ids, which `rm` can't delete. */
export async function removeState(dir: string): Promise<void> {
  const found = process.getuid?.() === 0 ? undefined : await findSubordinateIds();
  if (!found || !("ids" in found)) return rm(dir, { recursive: true, force: true });
  const launcher = createLauncher({ log: silentLogger, ids: found.ids });
  try {
    await launcher.rmtree(dirname(dir), basename(dir));
  } finally {
    await launcher.close();
  }
}
