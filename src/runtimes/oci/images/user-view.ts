import { createHash, randomBytes } from "node:crypto";
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { makeDir, readText, statOrUndefined } from "../../../lib/files.ts";
import { createSingleFlight } from "../../../lib/single-flight.ts";
import { withDiskGuard } from "../../common/images/disk-guard.ts";
import { needProgram } from "../programs.ts";
import { archiveTree } from "./copied-directory.ts";
import { type TarOptions, unpackTar } from "./tar.ts";

/**
 * Copies of root filesystems for sandboxes of an ordinary user's that mount something of the user's: what is root's inside
 * belongs to the user on disk, and not to the first of the subordinate ids. Ids can't be mapped on mounts here.
 */
export interface UserViews {
  /** The copy of this root filesystem, which is made at the first call. */
  of(lower: string, signal?: AbortSignal): Promise<string>;
  /** Where it is, or would be. */
  pathOf(lower: string): string;
  /** Discards the copy, where there is one. */
  forget(lower: string): Promise<void>;
  /** Discards what an earlier engine was making, and copies of what is gone, but for those in use. */
  sweep(used: ReadonlySet<string>): Promise<void>;
  close(): Promise<void>;
}

export function createUserViews(options: Omit<TarOptions, "onStep">): UserViews {
  const { dir, discard, launcher } = options;
  const flights = createSingleFlight<string>();
  const home = (lower: string) => join(dir, createHash("sha256").update(lower).digest("hex"));

  const make = async (lower: string, signal: AbortSignal): Promise<string> => {
    const target = join(home(lower), "rootfs");
    if (await statOrUndefined(target)) return target;
    const tar = await needProgram("tar", "an image for a sandbox with mounts");
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const temporary = join(dir, `.new-${randomBytes(8).toString("hex")}`);
    const archive = join(temporary, "archive.tar");
    await mkdir(temporary, { mode: 0o700 });
    try {
      await writeFile(join(temporary, "source"), lower, { mode: 0o600 });
      await makeDir(join(temporary, "rootfs"), 0o755);
      await withDiskGuard(dir, signal, async (guarded) => {
        await archiveTree(tar, lower, archive, launcher, guarded);
        await unpackTar(tar, archive, join(temporary, "rootfs"), launcher, guarded, "namespace-root");
      });
      await rm(archive);
      await rename(temporary, home(lower));
    } catch (error) {
      await discard(temporary);
      throw error;
    }
    return target;
  };

  return {
    of: (lower, signal) => flights.run(lower, (own) => make(lower, own), signal),
    pathOf: (lower) => join(home(lower), "rootfs"),
    forget: (lower) => discard(home(lower)),
    async sweep(used) {
      for (const name of (await statOrUndefined(dir)) ? await readdir(dir) : []) {
        const lower = name.startsWith(".new-") ? undefined : await readText(join(dir, name, "source"));
        const isWanted = lower !== undefined && (await statOrUndefined(lower)) !== undefined;
        if (!isWanted && !used.has(join(dir, name, "rootfs"))) await discard(join(dir, name));
      }
    },
    close: () => flights.close(),
  };
}
