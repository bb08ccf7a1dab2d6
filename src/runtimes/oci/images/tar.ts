import { createHash, randomBytes } from "node:crypto";
import { mkdir, readdir, realpath, rename, stat } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../../contracts/errors.ts";
import type { PreparedImage } from "../../../contracts/runtime.ts";
import type { OnStep } from "../../../contracts/steps.ts";
import { isGone, makeDir, statOrUndefined } from "../../../lib/files.ts";
import { lastWords } from "../../../lib/last-words.ts";
import { withDiskGuard } from "../../common/images/disk-guard.ts";
import type { Launcher } from "../launcher-client.ts";
import { needProgram } from "../programs.ts";
import { missing } from "./directory.ts";

/** Unpacking 64 GiB from a slow disk. */
export const UNPACK_TIMEOUT_MS = 3_600_000;

export interface TarOptions {
  launcher: Launcher;
  /** Where unpacked archives are kept, by key. */
  dir: string;
  discard(path: string): Promise<void>;
  onStep: OnStep;
}

/**
 * Unpacks a root filesystem archive once; the same file (device, inode, size, time) is not read again.
 * @throws WarrenError `image_not_found`, `image_invalid`, `no_space`, `unsupported`
 */
export async function ensureTar(
  reference: string,
  path: string,
  options: TarOptions,
  signal: AbortSignal,
): Promise<PreparedImage> {
  const file = await realpath(path).catch((error: unknown) => {
    if (isGone(error)) throw missing(path);
    throw error;
  });
  const info = await stat(file, { bigint: true });
  if (!info.isFile()) throw new WarrenError("image_invalid", `${path} is neither a directory nor a tar file`);
  const key = createHash("sha256")
    .update(`${info.dev}:${info.ino}:${info.size}:${info.mtimeNs}:${info.ctimeNs}`)
    .digest("hex");
  const image: PreparedImage = { id: `tar:${key}`, reference, env: {} };
  if (await statOrUndefined(join(options.dir, key))) return image;

  const tar = await needProgram("tar", "an image from a tar file");
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  const temporary = join(options.dir, `.new-${randomBytes(8).toString("hex")}`);
  await mkdir(temporary, { mode: 0o700 });
  await makeDir(join(temporary, "rootfs"), 0o755);
  options.onStep("image.tar-begun");
  try {
    await withDiskGuard(options.dir, signal, (guarded) =>
      unpackTar(tar, file, join(temporary, "rootfs"), options.launcher, guarded),
    );
    options.onStep("image.tar-unpacked");
    await rename(temporary, join(options.dir, key)).catch(async (error: NodeJS.ErrnoException) => {
      // Another reference to the same file was faster.
      if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
      await options.discard(temporary);
    });
    options.onStep("image.tar-made");
  } catch (error) {
    await options.discard(temporary);
    throw error;
  }
  return image;
}

/** Unpacks an archive into an empty directory. @throws WarrenError as `ensureTar` */
export async function unpackTar(
  tar: string,
  file: string,
  target: string,
  launcher: Launcher,
  signal: AbortSignal,
  as: "unpacker" | "namespace-root" = "unpacker",
): Promise<void> {
  const result = await launcher.run({
    // Ids as numbers, since the host's names mean nothing inside. No extended attributes: overlayfs would act on its own ones.
    // GNU tar itself strips leading slashes, refuses `..` and makes links last.
    argv: [
      tar,
      "--extract",
      `--file=${file}`,
      `--directory=${target}`,
      "--force-local",
      "--numeric-owner",
      "--same-owner",
      "--same-permissions",
      "--delay-directory-restore",
      "--no-xattrs",
      "--no-acls",
      "--no-selinux",
      "--warning=no-timestamp",
    ],
    as,
    timeoutMs: UNPACK_TIMEOUT_MS,
    signal,
  });
  if (result.timedOut) throw new WarrenError("deadline_exceeded", `unpacking ${file} took too long`);
  if (result.code !== 0) {
    throw new WarrenError("image_invalid", `${file} could not be unpacked: ${lastWords(result.output)}`);
  }
  const names = await readdir(target).catch((error: NodeJS.ErrnoException) => {
    // An ordinary user's root directory inside belongs to a subordinate id, and may be closed to the user.
    if (error.code === "EACCES") return ["."];
    throw error;
  });
  if (names.length === 0) throw new WarrenError("image_invalid", `${file} is an empty archive`);
}
