import {
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  type Stats,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { isGone } from "../../../lib/files.ts";

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

/** Entries between two pauses for the event loop. Single calls through the thread pool would take ten times as long. */
const ENTRIES_PER_TURN = 64;

/** Everything below `/etc` that an unprivileged user can read, parents first, sorted. */
export async function listReadable(etc: string): Promise<EtcEntry[]> {
  const entries: EtcEntry[] = [];
  let bytes = 0;
  const visit = async (relative: string): Promise<void> => {
    for (const name of readdirSync(join(etc, relative)).sort()) {
      const path = relative === "" ? name : `${relative}/${name}`;
      if (excluded.has(path) || excludedPattern.test(path) || entries.length >= MAX_ENTRIES) continue;
      const entry = readable(etc, path);
      if (!entry) continue;
      if (entry.stats.isFile()) {
        if (entry.stats.size > MAX_FILE_BYTES || bytes + entry.stats.size > MAX_TOTAL_BYTES) continue;
        bytes += entry.stats.size;
      }
      entries.push(entry);
      if (entries.length % ENTRIES_PER_TURN === 0) await nextTurn();
      if (entry.stats.isDirectory()) await visit(path);
    }
  };
  await visit("");
  return entries;
}

function readable(etc: string, path: string): EtcEntry | undefined {
  try {
    const stats = lstatSync(join(etc, path));
    if (stats.isSymbolicLink()) return { path, stats, target: readlinkSync(join(etc, path)) };
    const needed = stats.isDirectory() ? OTHERS_ENTER : stats.isFile() ? OTHERS_READ : undefined;
    return needed !== undefined && (stats.mode & needed) === needed ? { path, stats } : undefined;
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

/** Copies the entries to `target`, owned by us. A file that has become unreadable or a link meanwhile is left out. */
export async function copyEntries(etc: string, entries: readonly EtcEntry[], target: string): Promise<void> {
  for (const [i, entry] of entries.entries()) {
    if (i % ENTRIES_PER_TURN === 0) await nextTurn();
    const to = join(target, entry.path);
    if (entry.target !== undefined) {
      symlinkSync(entry.target, to);
    } else if (entry.stats.isDirectory()) {
      mkdirSync(to);
      chmodSync(to, 0o755);
    } else {
      copyReadable(join(etc, entry.path), to);
    }
  }
}

function copyReadable(from: string, to: string): void {
  let file: number;
  try {
    file = openSync(from, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (isGone(error) || (error as NodeJS.ErrnoException).code === "ELOOP") return;
    throw error;
  }
  try {
    const stats = fstatSync(file);
    if (!stats.isFile() || (stats.mode & OTHERS_READ) === 0 || stats.size > MAX_FILE_BYTES) return;
    writeFileSync(to, readFileSync(file));
    chmodSync(to, stats.mode & 0o755);
    utimesSync(to, stats.atime, stats.mtime);
  } finally {
    closeSync(file);
  }
}
