import { readFile, realpath } from "node:fs/promises";
import { WarrenError } from "../../contracts/errors.ts";
import type { RuntimeMount } from "../../contracts/runtime.ts";
import { isGone } from "../../lib/files.ts";

/**
 * Of binds of this machine: that they are there, and can be what they shall be. Engines of today mount what lies below a
 * read-only bind as it is, so it would stay writable.
 * @throws WarrenError `file_not_found`, `unsupported`
 */
export async function requireSources(mounts: readonly RuntimeMount[]): Promise<void> {
  for (const { type, source, readonly } of mounts) {
    if (type !== "bind") continue;
    const real = await realpath(source).catch((cause: unknown) => {
      if (!isGone(cause)) return undefined; // what we can't look at the engine may
      throw new WarrenError("file_not_found", `there is no ${source} to mount`, { cause });
    });
    if (!readonly || real === undefined) continue;
    const below = mountsBelow(real, await readFile("/proc/self/mountinfo", "utf8"));
    if (below.length > 0) {
      throw new WarrenError(
        "unsupported",
        `${source} can't be mounted read-only: another filesystem is mounted below it, at ${below[0]}`,
        { hint: "mount a directory that has none below it, or mount it writable" },
      );
    }
  }
}

/** `mountinfo`: as /proc tells it. */
export function mountsBelow(path: string, mountinfo: string): string[] {
  const prefix = path === "/" ? "/" : `${path}/`;
  return mountinfo
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .map((point) =>
      point.replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 8))),
    )
    .filter((point) => point.startsWith(prefix) && point !== "/");
}
