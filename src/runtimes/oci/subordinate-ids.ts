import { readFile } from "node:fs/promises";
import { userInfo } from "node:os";
import type { ProbeFinding, RuntimeSpec } from "../../contracts/runtime.ts";
import { readText } from "../../lib/files.ts";
import { IDS_PER_SANDBOX } from "./id-ranges.ts";
import { findProgram } from "./programs.ts";

/** Host ids that an ordinary user may map besides the own ones, and the programs that do it. */
export interface SubordinateIds {
  newuidmap: string;
  newgidmap: string;
  firstUid: number;
  firstGid: number;
  count: number;
}

/** An id of a user's range inside the launcher's user namespace, where 0 is the user: FIRST_SUBORDINATE of userns.h. */
export const FIRST_SUBORDINATE = 1;

/**
 * Whether a sandbox's root is the user who runs us (0 in the launcher's user namespace), so that the user's files that it has
 * mounted are root's inside, and what is made there is the user's. One that mounts nothing has nothing of the user's.
 */
export const isRootTheUser = (spec: Pick<RuntimeSpec, "mounts">, isRootless: boolean): boolean =>
  isRootless && spec.mounts.length > 0;

/** Where useradd begins to hand out ranges (SUB_UID_MIN of login.defs). */
const FIRST_RANGE = 100_000;

interface Entry {
  owner: string;
  first: number;
  count: number;
}

export interface SubordinateOptions {
  /** Default `/etc`. */
  etc?: string;
  /** Default: this process's user. */
  user?: { uid: number; name?: string };
}

/** What lets an ordinary user make sandboxes, or all that is missing, each with the command that mends it. */
export async function findSubordinateIds(
  options: SubordinateOptions = {},
): Promise<{ ids: SubordinateIds } | { missing: ProbeFinding[] }> {
  const { etc = "/etc", user = currentUser() } = options;
  const missing: ProbeFinding[] = await kernelFindings();
  const programs = { newuidmap: await findProgram("newuidmap"), newgidmap: await findProgram("newgidmap") };
  for (const [name, path] of Object.entries(programs)) {
    if (path === undefined && missing.at(-1)?.fix !== installUidmap) {
      missing.push({ level: "error", message: `${name} is not installed`, fix: installUidmap });
    }
  }
  const ranges: Record<string, number> = {};
  for (const [file, flag] of [
    ["subuid", "--add-subuids"],
    ["subgid", "--add-subgids"],
  ] as const) {
    const entries = parseEntries((await readText(`${etc}/${file}`)) ?? "");
    const own = entries.filter((e) => e.owner === user.name || e.owner === String(user.uid));
    const range = own.find((e) => e.count >= IDS_PER_SANDBOX);
    if (range) {
      ranges[file] = range.first;
      continue;
    }
    const had = own.length > 0 ? `only ${Math.max(...own.map((e) => e.count))} in one range` : "none";
    const first = firstFree(entries);
    missing.push({
      level: "error",
      message: `${etc}/${file} gives user ${user.name ?? user.uid} ${had} of the ${IDS_PER_SANDBOX} ids that a sandbox needs`,
      fix: `sudo usermod ${flag} ${first}-${first + IDS_PER_SANDBOX - 1} ${user.name ?? user.uid}`,
    });
  }
  const { newuidmap, newgidmap } = programs;
  const { subuid: firstUid, subgid: firstGid } = ranges;
  if (missing.length > 0 || !newuidmap || !newgidmap || !firstUid || !firstGid) return { missing };
  return { ids: { newuidmap, newgidmap, firstUid, firstGid, count: IDS_PER_SANDBOX } };
}

const installUidmap = "sudo apt-get install uidmap";

/** Switches that keep ordinary users from making user namespaces; each is there on some distributions only. */
const switches = [
  {
    file: "kernel/unprivileged_userns_clone",
    bad: "0",
    fix: "sudo sysctl -w kernel.unprivileged_userns_clone=1",
  },
  { file: "user/max_user_namespaces", bad: "0", fix: "sudo sysctl -w user.max_user_namespaces=28633" },
  {
    file: "kernel/apparmor_restrict_unprivileged_userns",
    bad: "1",
    fix: "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
  },
];

async function kernelFindings(): Promise<ProbeFinding[]> {
  const findings: ProbeFinding[] = [];
  for (const { file, bad, fix } of switches) {
    if ((await readFile(`/proc/sys/${file}`, "utf8").catch(() => "")).trim() !== bad) continue;
    findings.push({
      level: "error",
      message: `${file.replace("/", ".")} is ${bad}: ordinary users can't use user namespaces here`,
      fix,
    });
  }
  return findings;
}

export function currentUser(): { uid: number; name?: string } {
  const uid = process.getuid?.() ?? 0;
  try {
    return { uid, name: userInfo().username };
  } catch {
    return { uid }; // a uid without an account
  }
}

function parseEntries(text: string): Entry[] {
  return text
    .split("\n")
    .map((line) => line.trim().split(":"))
    .map(([owner = "", first, count]) => ({ owner, first: Number(first), count: Number(count) }))
    .filter(
      (e) => e.owner !== "" && Number.isSafeInteger(e.first) && e.first > 0 && Number.isSafeInteger(e.count),
    );
}

function firstFree(entries: readonly Entry[]): number {
  let first = FIRST_RANGE;
  for (const entry of entries.toSorted((a, b) => a.first - b.first)) {
    if (entry.first < first + IDS_PER_SANDBOX && entry.first + entry.count > first)
      first = entry.first + entry.count;
  }
  return first;
}
