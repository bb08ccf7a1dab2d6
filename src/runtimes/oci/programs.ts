import { accessSync, constants, statSync } from "node:fs";
import { delimiter, isAbsolute, join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import { run } from "../../lib/run.ts";

/** For the isolation `container`, in order of preference. */
export const ociPrograms = ["crun", "runc"] as const;
export type ContainerProgramName = (typeof ociPrograms)[number];
export type OciProgramName = ContainerProgramName | "runsc";

/** How gVisor's kernel gets at what its processes do, best first. kvm is left out: on many virtual machines it hangs. */
export const gvisorPlatforms = ["systrap", "ptrace"] as const;
export type GvisorPlatform = (typeof gvisorPlatforms)[number];

export interface OciProgram {
  name: OciProgramName;
  /** Absolute. */
  path: string;
  /** As it says itself: `1.8.1`, `1.1.5+ds1`. */
  version: string;
  /** Of runsc. */
  platform?: GvisorPlatform;
  /** What it was built from: a commit, or a distributor's own revision. */
  revision?: string;
}

/** Where system programs live; used beside PATH, because a service's PATH may lack sbin. */
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/**
 * Absolute path of a program on PATH that nobody but root can have put there: relative entries of PATH, and programs and
 * directories that others may write to, are passed over.
 */
export async function findProgram(name: string): Promise<string | undefined> {
  return findProgramNow(name);
}

/** The same, without waiting: a few looks at what the kernel has in memory. */
export function findProgramNow(name: string): string | undefined {
  const dirs = `${process.env.PATH ?? ""}${delimiter}${systemPath}`.split(delimiter);
  for (const dir of dirs.filter(isAbsolute)) {
    const path = join(dir, name);
    if (isTrustedProgram(dir, path)) return path;
  }
  return undefined;
}

function isTrustedProgram(dir: string, path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    const [place, file] = [statSync(dir), statSync(path)];
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
  const text = result?.stdout.toString("utf8") ?? "";
  const version = /version (\S+)/.exec(text)?.[1];
  const revision = /^commit: (\S+)/m.exec(text)?.[1];
  if (result?.code !== 0 || !version) return undefined;
  return { name, path, version, ...(revision === undefined ? {} : { revision }) };
}
