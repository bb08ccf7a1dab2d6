import { access, constants, stat } from "node:fs/promises";
import { delimiter, isAbsolute, join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import type { ProbeFinding } from "../../contracts/runtime.ts";
import { run } from "../../lib/run.ts";

export const ociPrograms = ["crun", "runc"] as const;
export type OciProgramName = (typeof ociPrograms)[number];

export interface OciProgram {
  name: OciProgramName;
  /** Absolute. */
  path: string;
  /** As it says itself: `1.8.1`, `1.1.5+ds1`. */
  version: string;
}

/** Where system programs live; used beside PATH, because a service's PATH may lack sbin. */
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/**
 * Absolute path of a program on PATH that nobody but root can have put there: relative entries of PATH, and programs and
 * directories that others may write to, are passed over.
 */
export async function findProgram(name: string): Promise<string | undefined> {
  const dirs = `${process.env.PATH ?? ""}${delimiter}${systemPath}`.split(delimiter);
  for (const dir of dirs.filter(isAbsolute)) {
    const path = join(dir, name);
    if (await isTrustedProgram(dir, path)) return path;
  }
  return undefined;
}

async function isTrustedProgram(dir: string, path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    const [place, file] = await Promise.all([stat(dir), stat(path)]);
    return file.isFile() && file.uid === 0 && ((place.mode | file.mode) & 0o002) === 0;
  } catch {
    return false;
  }
}

/** A program that must be there. @throws WarrenError `unsupported` that says how to install it. */
export async function needProgram(name: string, purpose: string): Promise<string> {
  const path = await findProgram(name);
  if (path) return path;
  throw new WarrenError("unsupported", `${purpose} needs ${name}, which is not installed`, {
    hint: `apt-get install ${name}`,
  });
}

/** The program and its version, or undefined when it isn't installed or doesn't answer. */
export async function findOciProgram(name: OciProgramName): Promise<OciProgram | undefined> {
  const path = await findProgram(name);
  if (!path) return undefined;
  const result = await run(path, ["--version"], { timeoutMs: 10_000 }).catch(() => undefined);
  const version = /version (\S+)/.exec(result?.stdout.toString("utf8") ?? "")?.[1];
  return result?.code === 0 && version ? { name, path, version } : undefined;
}

/**
 * Releases with the fixes for CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881 (races on masked paths and /dev/console
 * that redirect writes to the host's procfs).
 * https://github.com/opencontainers/runc/security/advisories
 */
const runcFixed: [number, number, number][] = [
  [1, 2, 8],
  [1, 3, 3],
];

/** A warning for a version with known holes; undefined when none is known. */
export function knownWeakness(program: OciProgram): ProbeFinding | undefined {
  const match = /^v?(\d+)\.(\d+)\.(\d+)/.exec(program.version);
  if (program.name !== "runc" || !match) return undefined;
  const [major, minor, patch] = match.slice(1).map(Number) as [number, number, number];
  const fixed = runcFixed.find(([a, b]) => a === major && b === minor);
  const newer = major > 1 || (major === 1 && minor > 3);
  if (newer || (fixed && patch >= fixed[2])) return undefined;
  return {
    level: "warning",
    message: `runc ${program.version} lacks upstream's fixes for CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881, unless the distributor added them; sandboxes run in a user namespace, which keeps these from being root on the host`,
    fix: "use crun, or runc 1.2.8, 1.3.3 or newer",
  };
}
