import { createWriteStream } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { pipeline } from "node:stream/promises";
import type { SandboxApi } from "../../contracts/api.ts";
import { WarrenError } from "../../contracts/errors.ts";
import type { FileInfo } from "../../contracts/files.ts";
import { writeFully } from "../output.ts";
import { checkName, type LocalDirectory, openLocalDirectory } from "./local-directory.ts";
import { guestName, joinGuest, meansDirectory } from "./location.ts";
import { inParallel } from "./parallel.ts";

/** Told of everything that is not copied. */
export type Warn = (message: string) => void;

export interface Remote {
  api: SandboxApi;
  id: string;
  warn: Warn;
}

/** Deeper than any real tree. Each level holds a file descriptor. */
const MAX_DEPTH = 512;

/** Copies a file or a tree out of a sandbox, the way `cp -r` would, but believing nothing that the sandbox says. */
export async function download(remote: Remote, path: string, destination: string): Promise<void> {
  const info = await remote.api.files.stat(remote.id, path);
  const existing = await stat(destination).catch(() => undefined);
  // The link that the user named is followed; links inside a tree are not.
  if (info.is_dir || (info.type === "symlink" && (await leadsToDirectory(remote, path)))) {
    if (existing && !existing.isDirectory()) {
      throw new WarrenError("file_exists", `${destination} is a file, and ${path} is a directory`);
    }
    await downloadTree(remote, path, destination, existing !== undefined);
  } else if (existing && !existing.isDirectory() && !existing.isFile()) {
    // A terminal, FIFO or /dev/null: written to, never replaced.
    const { body } = await remote.api.files.read(remote.id, path);
    await pipeline(body, createWriteStream(destination, { flags: "r+" }));
  } else {
    await downloadFile(remote, path, destination, existing?.isDirectory() ?? false, existing !== undefined);
  }
}

/** Writes a file of the sandbox to stdout. */
export async function downloadToStdout({ api, id }: Remote, path: string): Promise<void> {
  const { body } = await api.files.read(id, path);
  for await (const chunk of body) await writeFully(1, chunk);
}

async function downloadFile(
  remote: Remote,
  path: string,
  destination: string,
  into: boolean,
  exists: boolean,
): Promise<void> {
  if (!into && meansDirectory(destination)) {
    throw new WarrenError("not_a_directory", `there is no directory ${destination}`, {
      hint: "make it first",
    });
  }
  const { info, body } = await remote.api.files.read(remote.id, path);
  // A link that the user has there is written through, as cp does.
  const target = exists && !into ? await realpath(destination) : destination;
  await using directory = await openLocalDirectory(into ? target : dirname(target));
  await directory.writeFile(into ? guestName(path) : basename(target), body, info.permissions);
}

/** `cp -r dir existing` makes existing/dir, `cp -r dir/. existing` fills existing, `cp -r dir new` makes new. */
async function downloadTree(
  remote: Remote,
  path: string,
  destination: string,
  exists: boolean,
): Promise<void> {
  const trimmed = destination.replace(/(?<=.)\/+$/, "");
  const own = exists ? (path.endsWith("/.") ? "" : guestName(path)) : basename(trimmed);
  await using parent = await openLocalDirectory(exists ? destination : dirname(trimmed));
  if (own === "") {
    await fill(remote, path, parent, 0);
    return;
  }
  const { permissions } = await remote.api.files.stat(remote.id, joinGuest(path, "."));
  await using root = await parent.directory(own);
  await fill(remote, path, root, 0);
  await root.setMode(permissions);
}

async function fill(remote: Remote, path: string, into: LocalDirectory, depth: number): Promise<void> {
  if (depth > MAX_DEPTH) {
    throw new WarrenError("too_large", `${path} is more than ${MAX_DEPTH} directories deep`);
  }
  const entries = await remote.api.files.list(remote.id, path);
  for (const { name } of entries) checkName(name);
  await inParallel(
    entries.filter((entry) => !entry.is_dir),
    (entry) => downloadEntry(remote, joinGuest(path, entry.name), entry, into, depth),
  );
  for (const entry of entries.filter((entry) => entry.is_dir)) {
    await using child = await into.directory(entry.name);
    await fill(remote, joinGuest(path, entry.name), child, depth + 1);
    // Last: a directory that may not be written can't be filled.
    await child.setMode(entry.permissions);
  }
}

async function downloadEntry(
  remote: Remote,
  path: string,
  entry: FileInfo,
  into: LocalDirectory,
  depth: number,
): Promise<void> {
  if (entry.type === "symlink") {
    if (entry.target !== undefined && staysInside(entry.target, depth)) {
      await into.link(entry.name, entry.target);
    } else {
      remote.warn(`skipped ${path}: the link leads out of what is copied, to ${entry.target ?? "nowhere"}`);
    }
  } else if (entry.type === "file") {
    try {
      const { info, body } = await remote.api.files.read(remote.id, path);
      await into.writeFile(entry.name, body, info.permissions);
    } catch (error) {
      if (!(error instanceof WarrenError && error.code === "file_not_found")) throw error;
      remote.warn(`skipped ${path}: it is gone, or its name is not text`);
    }
  } else {
    remote.warn(`skipped ${path}: it is a ${entry.type.replace("_", " ")}`);
  }
}

/**
 * True when a link `depth` directories below the copy's root can't lead out of it. `..` counts only in front, where the
 * directories above are known to be real ones; behind another name, which may itself be a link, it could lead anywhere.
 */
export function staysInside(target: string, depth: number): boolean {
  const parts = target.split("/").filter((part) => part !== "" && part !== ".");
  const down = parts.findIndex((part) => part !== "..");
  const up = down < 0 ? parts.length : down;
  return target !== "" && !target.startsWith("/") && up <= depth && !parts.slice(up).includes("..");
}

async function leadsToDirectory({ api, id }: Remote, path: string): Promise<boolean> {
  try {
    return (await api.files.stat(id, joinGuest(path, "."))).is_dir;
  } catch (error) {
    if (
      error instanceof WarrenError &&
      (error.code === "not_a_directory" || error.code === "file_not_found")
    ) {
      return false;
    }
    throw error;
  }
}
