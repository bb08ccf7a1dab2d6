import { createHash, randomBytes } from "node:crypto";
import { lstat, mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../../contracts/errors.ts";
import type { PreparedImage } from "../../../contracts/runtime.ts";
import { makeDir, statOrUndefined } from "../../../lib/files.ts";
import { lastWords } from "../../../lib/last-words.ts";
import { withDiskGuard } from "../../common/images/disk-guard.ts";
import type { Launcher } from "../launcher-client.ts";
import { needProgram } from "../programs.ts";
import { resolveDirectory } from "./directory.ts";
import { type TarOptions, UNPACK_TIMEOUT_MS, unpackTar } from "./tar.ts";

/** How an ordinary user, and whoever has no id inside, are numbered where the archive is made. */
const USER = 65_536;
const NOBODY = 65_534;
const OWNERS = `+${USER} root:0\n+${NOBODY} root:0\n`;

/**
 * A root filesystem directory of an ordinary user's, who can't have its ids mapped on a mount: it is copied, once for each
 * state that it is found in, and what belongs to the user or to nobody inside becomes root's.
 * @throws WarrenError as `resolveDirectory` and `ensureTar`; `image_invalid` for what the user may not read
 */
export async function ensureCopiedDirectory(
  reference: string,
  path: string,
  stateDir: string,
  options: Omit<TarOptions, "onStep">,
  signal: AbortSignal,
): Promise<PreparedImage> {
  const source = await resolveDirectory(path, stateDir);
  const key = await fingerprint(source);
  const image: PreparedImage = { id: `copy:${key}`, reference, env: {} };
  if (await statOrUndefined(join(options.dir, key))) return image;
  const tar = await needProgram("tar", "an image from a directory");
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  const temporary = join(options.dir, `.new-${randomBytes(8).toString("hex")}`);
  const archive = join(temporary, "archive.tar");
  await mkdir(temporary, { mode: 0o700 });
  try {
    await makeDir(join(temporary, "rootfs"), 0o755);
    await withDiskGuard(options.dir, signal, async (guarded) => {
      await archiveTree(tar, source, archive, options.launcher, guarded);
      await unpackTar(tar, archive, join(temporary, "rootfs"), options.launcher, guarded);
    });
    await rm(archive);
    await rename(temporary, join(options.dir, key)).catch(async (error: NodeJS.ErrnoException) => {
      // Another reference to the same directory was faster.
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
      await options.discard(temporary);
    });
  } catch (error) {
    await options.discard(temporary);
    throw error;
  }
  return image;
}

/**
 * Packs a tree with the owners that it has inside; what is the user's, or nobody's, becomes root's.
 * @throws WarrenError `image_invalid` for what the user may not read
 */
export async function archiveTree(
  tar: string,
  source: string,
  archive: string,
  launcher: Launcher,
  signal: AbortSignal,
): Promise<void> {
  const owners = `${archive}.owners`;
  await writeFile(owners, OWNERS, { mode: 0o600 });
  const result = await launcher.run({
    argv: [
      tar,
      "--create",
      `--file=${archive}`,
      `--directory=${source}`,
      "--force-local",
      "--one-file-system",
      `--owner-map=${owners}`,
      `--group-map=${owners}`,
      "--numeric-owner",
      "--no-xattrs",
      "--",
      ".",
    ],
    as: "unpacker",
    timeoutMs: UNPACK_TIMEOUT_MS,
    signal,
  });
  await rm(owners);
  if (result.timedOut) throw new WarrenError("deadline_exceeded", `copying ${source} took too long`);
  if (result.code !== 0) {
    throw new WarrenError("image_invalid", `${source} can't be copied: ${lastWords(result.output)}`);
  }
}

/** Changes when a file of the tree does: what is compared is what the kernel keeps of each, not its bytes. */
async function fingerprint(root: string): Promise<string> {
  const hash = createHash("sha256").update(root);
  const visit = async (relative: string): Promise<void> => {
    for (const name of (await readdir(join(root, relative))).sort()) {
      const path = join(relative, name);
      const s = await lstat(join(root, path), { bigint: true });
      hash.update(
        JSON.stringify([
          path,
          ...[s.dev, s.ino, s.mode, s.uid, s.gid, s.size, s.mtimeNs, s.ctimeNs].map(String),
        ]),
      );
      if (s.isDirectory()) await visit(path);
    }
  };
  try {
    await visit("");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "EACCES") throw cause;
    throw new WarrenError("image_invalid", `${(cause as NodeJS.ErrnoException).path} can't be read`, {
      hint: "an image's directory must be yours to read; a tar file of it works too",
      cause,
    });
  }
  return hash.digest("hex");
}
