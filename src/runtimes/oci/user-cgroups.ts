import { constants, existsSync } from "node:fs";
import { access, chown, mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { isGone, readText, writeExisting } from "../../lib/files.ts";
import type { CgroupHost } from "../common/cgroup.ts";

export interface HostUser {
  uid: number;
  name?: string;
}

/** Where the engine itself has to be, on cgroup v2: a group that has limits for others has no members itself. */
const ENGINE_GROUP = "engine";

/**
 * What of the host's cgroups an ordinary user may use: what root has prepared for that user, or, on cgroup v2, the group that
 * systemd has delegated to the unit which is the engine.
 */
export async function userCgroups(host: CgroupHost, user: HostUser): Promise<CgroupHost> {
  const base = basePath(user);
  const delegated = host.version === 2 ? await takeDelegated(host, user.uid) : undefined;
  if (delegated) return delegated;
  const who = user.name ?? `user ${user.uid}`;
  const owned = await Promise.all(host.mounts.map((mount) => isOurs(join(mount, base), user.uid)));
  // Both container runtimes go into every hierarchy that there is, so all of them or none.
  if (host.mounts.length === 0 || !owned.every(Boolean)) {
    return withoutCgroups(host, {
      why: `${who} has no cgroup here, without which nothing can be limited or paused`,
      fix: `sudo npx warren doctor --prepare-cgroups ${user.name ?? user.uid}`,
    });
  }
  if (host.version === 1) return { ...host, base };
  const dir = join(host.mounts[0] as string, base);
  // Who moves a process needs to own a group that both places are in.
  const own = await ownGroup();
  if (own !== base && !own.startsWith(`${base}/`)) {
    return withoutCgroups(host, {
      why: `the engine of ${who} is in the cgroup ${own}, and only from inside ${base} can it put sandboxes there`,
      fix: `echo $$ | sudo tee ${join(dir, ENGINE_GROUP, "cgroup.procs")}, and then start the engine from this shell`,
    });
  }
  const controllers = ((await readText(join(dir, "cgroup.subtree_control"))) ?? "").trim().split(/\s+/);
  return { ...host, base, limits: host.limits.filter((limit) => controllers.includes(limit)) };
}

async function ownGroup(): Promise<string> {
  return /^0::(.*)$/m.exec(await readFile("/proc/self/cgroup", "utf8"))?.[1] ?? "/";
}

/**
 * The group that this process is in, when it is the user's and nobody else is there, as in a unit with `Delegate=yes`; or the
 * one above, when we are in its subgroup for engines (`DelegateSubgroup=engine`). The engine makes room in it.
 */
async function takeDelegated(host: CgroupHost, uid: number): Promise<CgroupHost | undefined> {
  const own = await ownGroup();
  const base = basename(own) === ENGINE_GROUP ? dirname(own) : own;
  const dir = join(host.mounts[0] as string, base);
  const files = ["", "cgroup.procs", "cgroup.subtree_control"].map((name) => join(dir, name));
  if (base === "/" || !(await Promise.all(files.map((file) => isOurs(file, uid)))).every(Boolean))
    return undefined;
  const members = ((await readText(join(dir, "cgroup.procs"))) ?? "").trim();
  if (members !== "" && members !== String(process.pid)) return undefined;
  await mkdir(join(dir, ENGINE_GROUP), { recursive: true });
  if (members !== "") await writeExisting(join(dir, ENGINE_GROUP, "cgroup.procs"), members);
  const offered = ((await readText(join(dir, "cgroup.controllers"))) ?? "").trim().split(/\s+/);
  const limits = host.limits.filter((limit) => offered.includes(limit));
  if (limits.length > 0) {
    await writeExisting(join(dir, "cgroup.subtree_control"), limits.map((limit) => `+${limit}`).join(" "));
  }
  return { ...host, base, limits, swapController: limits.includes("memory") };
}

function withoutCgroups(host: CgroupHost, refusal: { why: string; fix: string }): CgroupHost {
  return {
    ...host,
    mounts: [],
    byController: new Map(),
    limits: [],
    hasPayloadGroups: false,
    swapController: false,
    refusal,
  };
}

/**
 * As root: gives a user a group of their own in each hierarchy, until the next boot. Done already is success.
 * The directories of the groups.
 */
export async function prepareUserCgroups(host: CgroupHost, user: HostUser): Promise<string[]> {
  const dirs = host.mounts.map((mount) => join(mount, basePath(user)));
  for (const dir of dirs) {
    await mkdir(dir, { recursive: true });
    // A group of cpuset takes members only once it has processors and memory nodes, which its children get by clone_children.
    for (const name of ["cpuset.cpus", "cpuset.mems"]) if (host.version === 1) await inherit(dir, name);
    if (host.version === 1 && existsSync(join(dir, "cpuset.cpus"))) {
      await writeFile(join(dir, "cgroup.clone_children"), "1", { flag: "r+" });
    }
    if (host.version === 2) await delegate(dir, host.limits, user.uid);
    await chown(dir, user.uid, -1);
  }
  return dirs;
}

/** https://docs.kernel.org/admin-guide/cgroup-v2.html#delegation */
async function delegate(dir: string, limits: readonly string[], uid: number): Promise<void> {
  const enable = limits.map((limit) => `+${limit}`).join(" ");
  for (const parent of [join(dir, ".."), dir]) {
    await writeFile(join(parent, "cgroup.subtree_control"), enable, { flag: "r+" });
  }
  await mkdir(join(dir, ENGINE_GROUP), { recursive: true });
  const files = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];
  for (const group of [dir, join(dir, ENGINE_GROUP)]) {
    for (const name of files) await chown(join(group, name), uid, -1);
    await chown(group, uid, -1);
  }
}

/**
 * Makes a sandbox's groups and gives the files to enter them by, where a user has to be in them before the sandbox is: on
 * cgroup v1 only a process's own user may move it, and crun moves what has become the sandbox's root already.
 */
export async function enterUserGroups(host: CgroupHost, dirs: readonly string[]): Promise<string[]> {
  if (host.version !== 1 || host.base === undefined) return [];
  // crun makes those of cpuset itself, which take no members before they have processors. What there is of cgroup v2 beside
  // v1 limits nothing, and has rules of its own.
  const mounts = [...host.byController].filter(([name]) => name !== "cpuset").map(([, mount]) => mount);
  const own = dirs.filter((dir) => mounts.some((mount) => dir.startsWith(`${mount}/`)));
  await Promise.all(own.map((dir) => mkdir(dir, { recursive: true })));
  return own.map((dir) => join(dir, "cgroup.procs"));
}

const basePath = (user: HostUser): string => `/warren-${user.uid}`;

async function isOurs(path: string, uid: number): Promise<boolean> {
  try {
    const stats = await stat(path);
    await access(path, constants.W_OK | (stats.isDirectory() ? constants.X_OK : 0));
    return stats.uid === uid;
  } catch {
    return false;
  }
}

async function inherit(dir: string, name: string): Promise<void> {
  try {
    const value = (await readFile(join(dir, "..", name), "utf8")).trim();
    await writeFile(join(dir, name), value, { flag: "r+" });
  } catch (error) {
    if (!isGone(error)) throw error; // not this hierarchy
  }
}
