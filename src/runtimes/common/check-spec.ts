import { posix } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import type { RuntimeMount, RuntimeSpec } from "../../contracts/runtime.ts";
import { VolumeName } from "../../contracts/volumes.ts";
import { isSandboxId } from "./sandbox-id.ts";

/** Tmpfs mounts of one sandbox; each costs the kernel memory that no limit counts. */
const MAX_TMPFS = 64;
/** Volumes and binds of one sandbox, as many as the API takes. */
const MAX_MOUNTS = 128;
/** The kernel's PATH_MAX, with room for what is before it. */
const MAX_PATH = 4000;
/** Places that the runtime itself mounts on. */
const reservedPaths = ["/", "/proc", "/sys", "/dev", "/.warren"];
const insideReserved = /^\/(proc|sys|dev|\.warren)\//;

/**
 * Refuses what no runtime can do or what would confuse the programs below it, before anything is made.
 * @throws WarrenError `invalid_request`, `unsupported`
 */
export function checkSpec(spec: RuntimeSpec): void {
  if (!isSandboxId(spec.id)) invalid(`${JSON.stringify(spec.id)} can't be a sandbox id`);
  if (!/^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?$/.test(spec.hostname)) {
    invalid(`${JSON.stringify(spec.hostname)} can't be a host name`);
  }
  for (const [name, value] of Object.entries(spec.env)) {
    if (name === "" || /[=\0]/.test(name) || value.includes("\0")) {
      invalid(`${JSON.stringify(name)} can't be an environment variable`);
    }
  }
  for (const arg of [...(spec.cmd ?? []), spec.workdir, spec.user ?? ""]) {
    if (arg.includes("\0")) invalid("a NUL byte can't be part of an argument");
  }
  if (spec.cmd?.length === 0) invalid("the main command is empty");
  if (spec.tmpfs.length > MAX_TMPFS) invalid(`more than ${MAX_TMPFS} tmpfs mounts`);
  if (spec.mounts.length > MAX_MOUNTS) invalid(`more than ${MAX_MOUNTS} volumes and binds`);
  for (const mount of spec.tmpfs) checkTmpfs(mount);
  for (const mount of spec.mounts) checkMount(mount);
  const seen = new Set<string>();
  for (const target of [...spec.tmpfs.map(({ path }) => path), ...spec.mounts.map(({ target }) => target)]) {
    if (seen.has(target)) invalid(`two mounts at ${target}`);
    seen.add(target);
  }
  for (const [name, value] of Object.entries(spec.limits)) {
    if (!Number.isSafeInteger(value) || value < 0) invalid(`the limit ${name} is ${value}`);
  }
}

function checkTarget(path: string): void {
  if (!isNormalPath(path)) {
    invalid(`${JSON.stringify(path)} can't be a mount's place: use an absolute path without . or ..`);
  }
  if (reservedPaths.includes(path) || insideReserved.test(path)) {
    invalid(`nothing can be mounted at ${path}`);
  }
  if (path.endsWith("/")) invalid(`${JSON.stringify(path)} ends with a slash`);
}

function isNormalPath(path: string): boolean {
  const length = Buffer.byteLength(path);
  return path.startsWith("/") && !path.includes("\0") && posix.normalize(path) === path && length <= MAX_PATH;
}

function checkMount({ type, source, target }: RuntimeMount): void {
  checkTarget(target);
  if (type === "bind" && !isNormalPath(source)) {
    invalid(`${JSON.stringify(source)} can't be mounted: use an absolute path without . or ..`);
  }
  if (type === "volume" && !VolumeName.safeParse(source).success) {
    invalid(`${JSON.stringify(source)} can't be a volume's name`);
  }
}

function checkTmpfs(mount: RuntimeSpec["tmpfs"][number]): void {
  const { path } = mount;
  checkTarget(path);
  if (!Number.isSafeInteger(mount.sizeBytes) || mount.sizeBytes <= 0)
    invalid(`the tmpfs at ${path} has no size`);
  if (!Number.isInteger(mount.mode) || mount.mode < 0 || mount.mode > 0o1777) {
    invalid(`the tmpfs at ${path} has the mode ${mount.mode}`);
  }
}

function invalid(message: string): never {
  throw new WarrenError("invalid_request", message);
}
