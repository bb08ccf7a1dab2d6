import { createHash, randomBytes } from "node:crypto";
import {
  chown,
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
import { join } from "node:path";
import { WarrenError } from "../../../contracts/errors.ts";
import { isGone, makeDir, statOrUndefined } from "../files.ts";
import type { ReadonlyBind } from "../launcher-client.ts";
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
  /** Default `/`. */
  hostRoot?: string;
}

/** Raise when the skeleton's make-up changes, so that old ones aren't taken for current. */
const SKELETON_VERSION = 1;
/** Top-level directories that hold programs. On a host with merged /usr all but usr and opt are links into usr. */
const programDirs = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt"];
/** Home fields of system accounts that name a directory of programs: not homes. */
const notHomes = new Set([
  "/",
  "/usr",
  "/usr/bin",
  "/usr/sbin",
  "/usr/lib",
  "/usr/share",
  "/usr/local",
  "/opt",
]);

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
  };
}

async function refreshSkeleton(options: HostImageOptions, hostRoot: string): Promise<string> {
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  const etc = join(hostRoot, "etc");
  const [entries, top] = await Promise.all([listReadable(etc), topLevel(hostRoot)]);
  const name = signature(entries, top);
  const target = join(options.dir, name);
  if (!(await statOrUndefined(target))) {
    const temporary = join(options.dir, `.new-${randomBytes(8).toString("hex")}`);
    try {
      await build(temporary, entries, top, etc);
      await rename(temporary, target);
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

/** What a program directory is on the host: a link to repeat, or a directory to mount. */
interface TopLevel {
  name: string;
  link?: string;
}

async function topLevel(hostRoot: string): Promise<TopLevel[]> {
  const found: TopLevel[] = [];
  for (const name of programDirs) {
    const stats = await statOrUndefined(join(hostRoot, name));
    if (stats?.isDirectory()) found.push({ name });
    // /opt may be a link to a place outside of what is mounted; it is then mounted itself.
    else if (stats?.isSymbolicLink() && name === "opt") found.push({ name });
    else if (stats?.isSymbolicLink()) found.push({ name, link: await readlink(join(hostRoot, name)) });
  }
  return found;
}

function signature(entries: readonly EtcEntry[], top: readonly TopLevel[]): string {
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
  top: readonly TopLevel[],
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
  await chown(join(root, "home/sandbox"), SANDBOX_ID, SANDBOX_ID);
  await symlink("/run", join(root, "var/run"));
  await symlink("/run/lock", join(root, "var/lock"));
  for (const { name, link } of top) {
    if (link === undefined) await makeDir(join(root, name), 0o755);
    else await symlink(link, join(root, name));
  }
  await copyEntries(etc, entries, join(root, "etc"));
  const shell = (await statOrUndefined("/bin/bash")) ? "/bin/bash" : "/bin/sh";
  for (const [name, text] of Object.entries(accounts(shell))) {
    await writeFile(join(root, "etc", name), text, { mode: 0o644 });
  }
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
  const binds: (ReadonlyBind & { real: string })[] = [];
  for (const { name, link } of await topLevel(hostRoot)) {
    if (link !== undefined) continue;
    const real = await realpath(join(hostRoot, name)).catch(() => undefined);
    if (real) binds.push({ source: real, target: name, real });
  }
  if (!binds.some((bind) => bind.target === "usr")) {
    throw new WarrenError("unsupported", "this host has no /usr directory to make the image `host` of");
  }
  const masks: ReadonlyBind[] = [];
  const hide = (path: string, source: string) => {
    for (const bind of binds) {
      if (!path.startsWith(`${bind.real}/`)) continue;
      masks.push({ source, target: `${bind.target}${path.slice(bind.real.length)}`, optional: true });
    }
  };
  hide(options.stateDir, options.emptyDir);
  for (const home of await homes()) hide(home, options.emptyDir);
  for (const socket of await sockets()) hide(socket, options.emptyFile);
  // Outer ones first: what is below a masked directory is gone then, and passed over.
  masks.sort((a, b) => a.target.split("/").length - b.target.split("/").length);
  return [...binds.map(({ source, target }) => ({ source, target })), ...masks];
}

/** Homes of root and of ordinary users, by their real paths. */
async function homes(): Promise<string[]> {
  const found: string[] = [];
  for (const line of (await readFile("/etc/passwd", "utf8")).split("\n")) {
    const [, , uid, , , home] = line.split(":");
    if (!home?.startsWith("/") || notHomes.has(home)) continue;
    if (Number(uid) !== 0 && (Number(uid) < 1000 || Number(uid) === 65534)) continue;
    const real = await realpath(home).catch((error: unknown) => {
      if (isGone(error)) return undefined;
      throw error;
    });
    if (real && !notHomes.has(real) && (await lstat(real)).isDirectory()) found.push(real);
  }
  return found;
}

/** Paths of the sockets that host processes listen on. One without a listener can't be connected to. */
async function sockets(): Promise<string[]> {
  const table = await readFile("/proc/net/unix", "utf8");
  const paths = table.split("\n").map((line) => line.slice(line.indexOf(" /") + 1));
  return [...new Set(paths.filter((path) => path.startsWith("/")))];
}
