import { opendir, realpath, stat } from "node:fs/promises";
import { WarrenError } from "../../../contracts/errors.ts";
import type { PreparedImage } from "../../../contracts/runtime.ts";
import { isGone, isWithin } from "../../../lib/files.ts";

/** A root filesystem directory of the operator's. It is a read-only lower layer and never written. */
export async function ensureDirectory(
  reference: string,
  path: string,
  stateDir: string,
): Promise<PreparedImage> {
  const resolved = await resolveDirectory(path, stateDir);
  return { id: `dir:${resolved}`, reference, env: {} };
}

/**
 * The real path of a directory that may be an image.
 * @throws WarrenError `image_not_found`, or `image_invalid` for the host's own root, for what holds or is part of our
 * state, and for what is empty or no directory.
 */
export async function resolveDirectory(path: string, stateDir: string): Promise<string> {
  const resolved = await realpath(path).catch((error: unknown) => {
    if (isGone(error)) throw missing(path);
    throw error;
  });
  if (!(await stat(resolved)).isDirectory()) {
    throw new WarrenError("image_invalid", `${path} is not a directory`);
  }
  if (resolved === "/") {
    throw new WarrenError(
      "image_invalid",
      "/ can't be an image: files that only root may read would show inside",
      {
        hint: "use the image `host`, which leaves those out",
      },
    );
  }
  if (isWithin(stateDir, resolved) || isWithin(resolved, stateDir)) {
    throw new WarrenError("image_invalid", `${path} overlaps with the state directory`);
  }
  const dir = await opendir(resolved);
  const first = await dir.read();
  await dir.close();
  if (!first) throw new WarrenError("image_invalid", `${path} is empty`);
  return resolved;
}

export function missing(path: string): WarrenError {
  return new WarrenError("image_not_found", `${path} does not exist`, {
    hint: "an image path is looked up on the host that runs the engine",
  });
}
