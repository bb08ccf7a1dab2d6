import { constants, type Stats } from "node:fs";
import { chmod, lstat, open, readdir, readlink, symlink, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isGone, makeDir } from "../files.ts";

/**
 * Left out although everybody may read them: identities of this host, its accounts and mounts, our own configuration; and
 * what is made anew. Whatever not everybody may read (shadow, private keys, sudoers…) is left out by its mode.
 */
const excluded = new Set([
  ".pwd.lock",
  "crypttab",
  "fstab",
  "group",
  "group-",
  "gshadow",
  "gshadow-",
  "hostname",
  "hosts",
  "machine-id",
  "passwd",
  "passwd-",
  "resolv.conf",
  "shadow",
  "shadow-",
  "subgid",
  "subgid-",
  "subuid",
  "subuid-",
  "sudoers",
  "sudoers.d",
  "warren",
]);
/** SSH host keys, public halves included: they identify the host. */
const excludedPattern = /^ssh\/ssh_host_/;

/** More of /etc than any system has; what is beyond is left out. */
const MAX_ENTRIES = 20_000;
const MAX_FILE_BYTES = 8 << 20;
const MAX_TOTAL_BYTES = 128 << 20;

const OTHERS_READ = 0o004;
const OTHERS_ENTER = 0o005;

export interface EtcEntry {
  /** Relative to /etc. */
  path: string;
  stats: Stats;
  /** Of a symbolic link. */
  target?: string;
}

/** Everything below `/etc` that an unprivileged user can read, parents first, sorted. */
export async function listReadable(etc: string): Promise<EtcEntry[]> {
  const entries: EtcEntry[] = [];
  let bytes = 0;
  const visit = async (relative: string): Promise<void> => {
    const names = (await readdir(join(etc, relative))).sort();
    for (const name of names) {
      const path = relative === "" ? name : `${relative}/${name}`;
      if (excluded.has(path) || excludedPattern.test(path) || entries.length >= MAX_ENTRIES) continue;
      const entry = await readable(etc, path);
      if (!entry) continue;
      if (entry.stats.isFile()) {
        if (entry.stats.size > MAX_FILE_BYTES || bytes + entry.stats.size > MAX_TOTAL_BYTES) continue;
        bytes += entry.stats.size;
      }
      entries.push(entry);
      if (entry.stats.isDirectory()) await visit(path);
    }
  };
  await visit("");
  return entries;
}

async function readable(etc: string, path: string): Promise<EtcEntry | undefined> {
  try {
    const stats = await lstat(join(etc, path));
    if (stats.isSymbolicLink()) return { path, stats, target: await readlink(join(etc, path)) };
    const needed = stats.isDirectory() ? OTHERS_ENTER : stats.isFile() ? OTHERS_READ : undefined;
    return needed !== undefined && (stats.mode & needed) === needed ? { path, stats } : undefined;
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

/** Copies the entries to `target`, owned by us. A file that has become unreadable or a link meanwhile is left out. */
export async function copyEntries(etc: string, entries: readonly EtcEntry[], target: string): Promise<void> {
  for (const entry of entries) {
    const to = join(target, entry.path);
    if (entry.target !== undefined) await symlink(entry.target, to);
    else if (entry.stats.isDirectory()) await makeDir(to, 0o755);
    else await copyFile(join(etc, entry.path), to);
  }
}

async function copyFile(from: string, to: string): Promise<void> {
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const file = await open(from, flags).catch((error: NodeJS.ErrnoException) => {
    if (isGone(error) || error.code === "ELOOP") return undefined;
    throw error;
  });
  if (!file) return;
  try {
    const stats = await file.stat();
    if (!stats.isFile() || (stats.mode & OTHERS_READ) === 0 || stats.size > MAX_FILE_BYTES) return;
    await writeFile(to, await file.readFile());
    await chmod(to, stats.mode & 0o755);
    await utimes(to, stats.atime, stats.mtime);
  } finally {
    await file.close();
  }
}
