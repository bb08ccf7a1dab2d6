import { readFileSync, type Stats } from "node:fs";
import { chmod, lstat, mkdir, readFile, rename, rm, statfs, writeFile } from "node:fs/promises";
import type { z } from "zod";
import { WarrenError } from "../contracts/errors.ts";

/** True for "no such file or directory" and "not a directory". */
export function isGone(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code === "ENOENT" || code === "ENOTDIR";
}

/** Does not follow a final link; undefined when nothing is there. */
export async function statOrUndefined(path: string): Promise<Stats | undefined> {
  try {
    return await lstat(path);
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

/** Undefined when nothing is there. */
export async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

/** A JSON document of ours; undefined when nothing is there, or what is there is broken. */
export async function readJson<S extends z.ZodType>(
  path: string,
  schema: S,
): Promise<z.output<S> | undefined> {
  const text = await readText(path);
  if (text === undefined) return undefined;
  try {
    return schema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

/** True when the path is the directory or below it; both absolute and normal. */
export function isWithin(path: string, dir: string): boolean {
  return path === dir || path.startsWith(dir.endsWith("/") ? dir : `${dir}/`);
}

/** As `readText`, synchronously: for small files, which take less time than a trip through the thread pool. */
export function readSmall(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

/** Readers see the old bytes or the new ones. Only the owner may read it. */
export async function writeAtomically(path: string, data: string): Promise<void> {
  const temporary = `${path}.new`;
  try {
    await writeFile(temporary, data, { mode: 0o600 });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** Less than a container runtime writes when it starts something. */
const FULL_BYTES = 64 * 1024;

/** True when the disk of this path has no room, but for what filesystems keep for root and for themselves. */
export async function isFull(path: string): Promise<boolean> {
  const { bavail, bsize } = await statfs(path);
  return bavail * bsize < FULL_BYTES;
}

/** A full disk in our words; anything else as it is. */
export function noSpace(error: unknown): unknown {
  const code = (error as NodeJS.ErrnoException).code;
  if (code !== "ENOSPC" && code !== "EDQUOT") return error;
  return new WarrenError("no_space", "the disk is full", { cause: error });
}

/** Writes to a file that must be there, as those of cgroups are: ENOENT otherwise. */
export async function writeExisting(path: string, data: string): Promise<void> {
  await writeFile(path, data, { flag: "r+" });
}

/** Makes a directory with exactly this mode, whatever our umask is. */
export async function makeDir(path: string, mode: number): Promise<void> {
  await mkdir(path, { mode });
  if ((mode & process.umask()) !== 0) await chmod(path, mode);
}
