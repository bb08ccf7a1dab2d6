import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { membersOf } from "./engine-process.ts";

export interface HostView {
  stateDir: string;
  /** Cgroup of the engines. */
  group: string;
  /** Pid of the engine that lives. */
  engine?: number;
  /** Ids of all sandboxes, and of those that have processes. */
  known: readonly string[];
  alive: readonly string[];
  snapshots?: readonly string[];
}

/** All on this host that is of this state directory and shouldn't be there, one line each. */
export function unwanted(view: HostView): string[] {
  return [...processes(view), ...groups(view), ...mounts(view.stateDir), ...files(view), ...claims(view)];
}

function processes({ group, engine, stateDir }: HostView): string[] {
  const left = membersOf(group).filter((pid) => !descendsFrom(pid, engine));
  // A container runtime names the state directory wherever it is.
  const named = allPids().filter(
    (pid) =>
      pid !== engine &&
      /(^|\/)(crun|runc)$/.test(commandOf(pid).split(" ")[0] ?? "") &&
      commandOf(pid).includes(stateDir),
  );
  return [...new Set([...left, ...named])].map((pid) => `process ${pid}: ${commandOf(pid)}`);
}

function groups({ stateDir, alive }: HostView): string[] {
  const owner = ownerGroup(stateDir);
  const found: string[] = [];
  for (const mount of cgroupMounts()) {
    const parent = join(mount, owner);
    for (const id of directories(parent)) if (!alive.includes(id)) found.push(`cgroup ${join(parent, id)}`);
  }
  for (const pid of allPids()) {
    const id = new RegExp(`${owner}/([^/\n]+)`).exec(readText(`/proc/${pid}/cgroup`))?.[1];
    if (id !== undefined && !alive.includes(id)) found.push(`process ${pid} of ${id}: ${commandOf(pid)}`);
  }
  return found;
}

function mounts(stateDir: string): string[] {
  return readText("/proc/self/mountinfo")
    .split("\n")
    .filter((line) => line.includes(`${stateDir}/`))
    .map((line) => `mount ${line}`);
}

const topLevel =
  /^(owner|audit\.jsonl|engine\.(log|log\.1|db|db-wal|db-shm|lock|lock-journal|sock|pid)|oci|logs|secrets|preview\.key)$/;
const ofRuntime = /^(sandboxes|images|trash|volumes|snapshots|shared|run|boot|launcher\.lock)$/;
const ofSandbox = /^(spec\.json|fs|top|config\.json|runtime\.log|m|userns)$/;
const ofRunning = /^(guest\.sock|guest\.pid|uplink\.pid)$/;

function files({ stateDir, known, alive, engine, snapshots = [] }: HostView): string[] {
  const found: string[] = [];
  const check = (dir: string, isWanted: (name: string) => boolean) => {
    for (const name of names(dir)) if (!isWanted(name)) found.push(`file ${join(dir, name)}`);
  };
  const oci = join(stateDir, "oci");
  check(stateDir, (name) => topLevel.test(name));
  if (engine === undefined) check(stateDir, (name) => name !== "engine.sock" && name !== "engine.pid");
  check(oci, (name) => ofRuntime.test(name));
  check(join(oci, "sandboxes"), (name) => known.includes(name));
  for (const id of known) {
    const isWanted = (name: string) => ofSandbox.test(name) || (alive.includes(id) && ofRunning.test(name));
    check(join(oci, "sandboxes", id), isWanted);
    if (!existsSync(join(oci, "sandboxes", id, "spec.json"))) found.push(`no files of ${id}`);
  }
  check(join(oci, "trash"), () => false);
  check(join(oci, "volumes"), (name) => !name.startsWith("."));
  for (const name of names(join(oci, "volumes"))) {
    check(join(oci, "volumes", name), (part) => part === "data" || part === "volume.json");
    if (names(join(oci, "volumes", name)).length !== 2) found.push(`the volume ${name} is not whole`);
  }
  check(join(oci, "shared"), (name) => /^(empty|empty-file|guest-[0-9a-f]+)$/.test(name));
  for (const program of ["crun", "runc"]) {
    check(join(oci, "run", program), (name) => alive.includes(name) || name.startsWith("."));
  }
  for (const kind of ["host", "tar", "oci"])
    check(join(oci, "images", kind), (name) => !name.startsWith("."));
  check(join(oci, "images/oci/refs"), (name) => name.endsWith(".json"));
  check(join(stateDir, "logs"), (name) => known.includes(name));
  const sealed = [...known, ...snapshots].map((id) => `${id}.sealed`);
  check(join(stateDir, "secrets"), (name) => ["key", "authority.pem", ...sealed].includes(name));
  return found;
}

/** One block of ids is enough for any test; without an engine and sandboxes there is none. */
function claims({ stateDir, alive, engine }: HostView): string[] {
  const allowed = engine !== undefined || alive.length > 0 ? 1 : 0;
  return claimsOf(stateDir)
    .slice(allowed)
    .map((path) => `claim ${path}`);
}

function descendsFrom(pid: number, ancestor: number | undefined): boolean {
  for (let at = pid; at > 1; at = parentOf(at)) if (at === ancestor) return true;
  return false;
}

export function parentOf(pid: number): number {
  return Number(/^PPid:\s*(\d+)$/m.exec(readText(`/proc/${pid}/status`))?.[1] ?? 0);
}

export function allPids(): number[] {
  return names("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

export function commandOf(pid: number): string {
  return readText(`/proc/${pid}/cmdline`).replaceAll("\0", " ").trim();
}

/** Mount points of all hierarchies. */
export function cgroupMounts(): string[] {
  return readText("/proc/self/mountinfo")
    .split("\n")
    .flatMap((line) => {
      const [left, right] = line.split(" - ");
      return right?.startsWith("cgroup") ? [left?.split(" ")[4] ?? ""] : [];
    });
}

/** Pids of all processes in a sandbox of this state directory. */
export function sandboxPids(stateDir: string): number[] {
  const owner = ownerGroup(stateDir);
  return allPids().filter((pid) => readText(`/proc/${pid}/cgroup`).includes(`${owner}/`));
}

/** Path, in each hierarchy, of the group that holds the sandboxes' groups. */
export function ownerGroup(stateDir: string): string {
  return `/warren-${readText(join(stateDir, "owner")).trim()}`;
}

/** Claims of ranges of ids. */
export function claimsOf(stateDir: string): string[] {
  const dir = "/run/warren/ids";
  return names(dir)
    .map((name) => join(dir, name))
    .filter((path) => {
      try {
        return readlinkSync(path) === stateDir;
      } catch {
        return false;
      }
    });
}

export function directories(dir: string): string[] {
  try {
    return readdirSync(dir, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name);
  } catch {
    return [];
  }
}

function names(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch {
    return [];
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
