import { createHash, randomBytes } from "node:crypto";
import {
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  realpath,
  rename,
  symlink,
  writeFile,
} from "node:fs/promises";
import { dirname, join } from "node:path";
import { WarrenError } from "../../../contracts/errors.ts";
import { noStep, type OnStep } from "../../../contracts/steps.ts";
import { isGone, makeDir, statOrUndefined } from "../../../lib/files.ts";
import type { ReadonlyBind } from "../launcher-client.ts";
import type { Own } from "../sandbox-store.ts";
import { copyEntries, type EtcEntry, listReadable } from "./host-etc.ts";

/**
 * The `host` image: a skeleton of our own as (id-mapped) lower layer, and the host's program directories as plain read-only
 * bind mounts. Those are not id-mapped, so host root is nobody inside and files that only root may read stay closed.
 * docs/decisions/0001-host-image.md
 */
export interface HostImage {
  /** Directory of the newest skeleton. Sandboxes keep the one that they were created with. */
  skeleton(): Promise<string>;
  /** What is mounted over the skeleton of a sandbox that starts now. */
  binds(): Promise<ReadonlyBind[]>;
  /** Resolves once no skeleton is being made. */
  idle(): Promise<void>;
}

export interface HostImageOptions {
  /** Where skeletons are kept. */
  dir: string;
  /** Real path of the state directory. */
  stateDir: string;
  /** Masks are mounted from these. */
  emptyDir: string;
  emptyFile: string;
  /** Skeletons that sandboxes were created with. */
  used(): Promise<ReadonlySet<string>>;
  discard(path: string): Promise<void>;
  own: Own;
  /** Default `/`. */
  hostRoot?: string;
  onStep?: OnStep;
}

/** Raise when the skeleton's make-up changes, so that old ones aren't taken for current. */
const SKELETON_VERSION = 2;
/** Top-level directories that hold programs. On a host with merged /usr all but usr are links into usr. */
const programDirs = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/** Its entries are mounted one by one: programs of the host can be used, and others be installed beside them. */
const addOnDir = "opt";
/** More entries of /opt than any host has; what is beyond is left out. */
const MAX_ADD_ONS = 200;
/** Home fields of system accounts that name a directory of programs: not homes. */
const notHomes = new Set(["/", "/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/share", "/usr/local"]);

export function createHostImage(options: HostImageOptions): HostImage {
  const hostRoot = options.hostRoot ?? "/";
  let refreshed: Promise<string> | undefined;
  return {
    skeleton() {
      refreshed ??= refreshSkeleton(options, hostRoot).catch((error: unknown) => {
        refreshed = undefined;
        throw error;
      });
      return refreshed;
    },
    binds: () => programBinds(options, hostRoot),
    async idle() {
      await refreshed?.catch(() => {});
    },
  };
}

async function refreshSkeleton(options: HostImageOptions, hostRoot: string): Promise<string> {
  const { onStep = noStep } = options;
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  const etc = join(hostRoot, "etc");
  const [entries, top] = await Promise.all([listReadable(etc), hostEntries(hostRoot)]);
  const name = signature(entries, top);
  const target = join(options.dir, name);
  if (!(await statOrUndefined(target))) {
    const temporary = join(options.dir, `.new-${randomBytes(8).toString("hex")}`);
    try {
      await build(temporary, entries, top, etc);
      await giveAway(temporary, options.own);
      onStep("image.host-built");
      await rename(temporary, target);
      onStep("image.host-made");
    } catch (error) {
      await options.discard(temporary);
      throw error;
    }
  }
  const others = (await readdir(options.dir)).filter((other) => other !== name);
  const used = others.length > 0 ? await options.used() : new Set<string>();
  for (const other of others) {
    if (!used.has(join(options.dir, other))) await options.discard(join(options.dir, other));
  }
  return target;
}

/** Something of the host that shows inside: a link to repeat, or what to mount read-only. */
interface HostEntry {
  /** Relative to the root, inside. */
  name: string;
  link?: string;
  /** Real path on the host. */
  source?: string;
  isDirectory: boolean;
}

async function hostEntries(hostRoot: string): Promise<HostEntry[]> {
  const found: HostEntry[] = [];
  const add = async (path: string, name: string, onDevice?: number) => {
    const stats = await statOrUndefined(path);
    if (stats?.isSymbolicLink()) found.push({ name, link: await readlink(path), isDirectory: false });
    else if (onDevice !== undefined && stats?.dev !== onDevice) return;
    else if (stats?.isDirectory() || stats?.isFile()) {
      found.push({ name, source: await realpath(path), isDirectory: stats.isDirectory() });
    }
  };
  for (const name of programDirs) await add(join(hostRoot, name), name);
  const addOns = await realpath(join(hostRoot, addOnDir)).catch(() => undefined);
  if (addOns === undefined || !(await isOpenToAll(addOns))) return found;
  const device = (await lstat(addOns)).dev;
  const names = (await readdir(addOns)).sort().slice(0, MAX_ADD_ONS);
  for (const name of names) await add(join(addOns, name), `${addOnDir}/${name}`, device);
  return found;
}

/** Mounting what is in a directory goes past that directory's own permissions, so everybody must be allowed in already. */
async function isOpenToAll(dir: string): Promise<boolean> {
  const stats = await lstat(dir);
  if (!stats.isDirectory() || (stats.mode & 0o005) !== 0o005) return false;
  for (let path = dirname(dir); path !== "/"; path = dirname(path)) {
    if (((await lstat(path)).mode & 0o001) === 0) return false;
  }
  return true;
}

function signature(entries: readonly EtcEntry[], top: readonly HostEntry[]): string {
  const hash = createHash("sha256").update(`${SKELETON_VERSION}\n${JSON.stringify(top)}\n`);
  for (const { path, stats, target } of entries) {
    hash.update(
      JSON.stringify([
        path,
        stats.mode,
        stats.isFile() ? [stats.size, stats.mtimeMs, stats.ino] : 0,
        target ?? "",
      ]),
    );
  }
  return hash.digest("hex").slice(0, 32);
}

async function build(
  root: string,
  entries: readonly EtcEntry[],
  top: readonly HostEntry[],
  etc: string,
): Promise<void> {
  await makeDir(root, 0o755);
  const directories: [path: string, mode: number][] = [
    ["etc", 0o755],
    ["home", 0o755],
    ["home/sandbox", 0o755],
    ["root", 0o700],
    ["tmp", 0o1777],
    ["run", 0o755],
    ["run/lock", 0o1777],
    ["mnt", 0o755],
    ["media", 0o755],
    ["opt", 0o755],
    ["srv", 0o755],
    ["var", 0o755],
    ["var/backups", 0o755],
    ["var/cache", 0o755],
    ["var/lib", 0o755],
    ["var/lib/misc", 0o755],
    ["var/local", 0o755],
    ["var/log", 0o755],
    ["var/mail", 0o755],
    ["var/opt", 0o755],
    ["var/spool", 0o755],
    ["var/tmp", 0o1777],
  ];
  for (const [path, mode] of directories) await makeDir(join(root, path), mode);
  await symlink("/run", join(root, "var/run"));
  await symlink("/run/lock", join(root, "var/lock"));
  for (const { name, link, isDirectory } of top) {
    if (link !== undefined) await symlink(link, join(root, name));
    else if (isDirectory) await makeDir(join(root, name), 0o755);
    else await writeFile(join(root, name), "", { mode: 0o644 });
  }
  await copyEntries(etc, entries, join(root, "etc"));
  const hasBash = await statOrUndefined(join(dirname(etc), "usr/bin/bash"));
  const shell = hasBash ? "/bin/bash" : "/bin/sh";
  for (const [name, text] of Object.entries(accounts(shell))) {
    await writeFile(join(root, "etc", name), text, { mode: 0o644 });
  }
}

/** Not the root directory itself, whose owner nobody sees: an upper layer has one of its own, and we still rename this one. */
async function giveAway(root: string, own: Own): Promise<void> {
  const names = await readdir(root);
  await own(
    names.map((name) => join(root, name)),
    0,
  );
  await own([join(root, "home/sandbox")], SANDBOX_ID);
}

/** Uid and gid of the ordinary user inside. */
const SANDBOX_ID = 1000;

/** `*`: nobody has a password, and no shadow file is needed to know it. 5 is tty, which devpts uses. */
function accounts(shell: string): Record<string, string> {
  return {
    passwd: [
      `root:*:0:0:root:/root:${shell}`,
      "nobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
      `sandbox:*:${SANDBOX_ID}:${SANDBOX_ID}:sandbox:/home/sandbox:${shell}`,
      "",
    ].join("\n"),
    group: ["root:*:0:", "tty:*:5:", "nogroup:*:65534:", `sandbox:*:${SANDBOX_ID}:`, ""].join("\n"),
    "resolv.conf": "",
  };
}

async function programBinds(options: HostImageOptions, hostRoot: string): Promise<ReadonlyBind[]> {
  const binds: ReadonlyBind[] = [];
  for (const { name, source } of await hostEntries(hostRoot)) {
    // Optional, because the skeleton has no place for what was added to /opt since it was made.
    if (source !== undefined) binds.push({ source, target: name, optional: name !== "usr", apart: true });
  }
  if (!binds.some((bind) => bind.target === "usr")) {
    throw new WarrenError("unsupported", "this host has no /usr directory to make the image `host` of");
  }
  const masks: ReadonlyBind[] = [];
  const hide = (path: string, source: string) => {
    for (const bind of binds) {
      if (path !== bind.source && !path.startsWith(`${bind.source}/`)) continue;
      masks.push({ source, target: `${bind.target}${path.slice(bind.source.length)}`, optional: true });
    }
  };
  hide(options.stateDir, options.emptyDir);
  for (const home of await homes(hostRoot)) hide(home, options.emptyDir);
  for (const socket of await sockets()) hide(socket, options.emptyFile);
  // Outer ones first: what is below a masked directory is gone then, and passed over.
  masks.sort((a, b) => a.target.split("/").length - b.target.split("/").length);
  return [...binds, ...masks];
}

/** Homes of root and of ordinary users, by their real paths. */
async function homes(hostRoot: string): Promise<string[]> {
  const found: string[] = [];
  for (const line of (await readFile(join(hostRoot, "etc/passwd"), "utf8")).split("\n")) {
    const [, , uid, , , home] = line.split(":");
    if (!home?.startsWith("/") || notHomes.has(home)) continue;
    if (Number(uid) !== 0 && (Number(uid) < 1000 || Number(uid) === 65534)) continue;
    const real = await realpath(join(hostRoot, home)).catch((error: unknown) => {
      if (isGone(error)) return undefined;
      // An ordinary user can't look at every home; what can't be reached can't be shown either.
      if ((error as NodeJS.ErrnoException).code === "EACCES") return undefined;
      throw error;
    });
    if (real && (await lstat(real)).isDirectory()) found.push(real);
  }
  return found;
}

/** Paths of the sockets that host processes listen on. One without a listener can't be connected to. */
async function sockets(): Promise<string[]> {
  const table = await readFile("/proc/net/unix", "utf8");
  const paths = table.split("\n").map((line) => line.slice(line.indexOf(" /") + 1));
  return [...new Set(paths.filter((path) => path.startsWith("/")))];
}
