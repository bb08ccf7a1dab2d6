import { posix } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import type { RuntimeSpec } from "../../contracts/runtime.ts";
import { isSandboxId } from "./sandbox-id.ts";

/** Tmpfs mounts of one sandbox; each costs the kernel memory that no limit counts. */
const MAX_TMPFS = 64;
/** Places that the runtime itself mounts on. */
const reservedPaths = ["/", "/proc", "/sys", "/dev", "/.warren"];
const insideReserved = /^\/(proc|sys|dev|\.warren)\//;

/**
 * Refuses what no runtime can do or what would confuse the programs below it, before anything is made.
 * @throws WarrenError `invalid_request`, `unsupported`
 */
export function checkSpec(spec: RuntimeSpec): void {
  if (!isSandboxId(spec.id)) invalid(`${JSON.stringify(spec.id)} can't be a sandbox id`);
  if (spec.network !== "none") {
    throw new WarrenError("unsupported", `there is no network mode ${spec.network} yet`, {
      hint: "use network_mode none",
    });
  }
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
  const seen = new Set<string>();
  for (const mount of spec.tmpfs) {
    checkTmpfs(mount);
    if (seen.has(mount.path)) invalid(`two tmpfs mounts at ${mount.path}`);
    seen.add(mount.path);
  }
  for (const [name, value] of Object.entries(spec.limits)) {
    if (!Number.isSafeInteger(value) || value < 0) invalid(`the limit ${name} is ${value}`);
  }
}

function checkTmpfs(mount: RuntimeSpec["tmpfs"][number]): void {
  const { path } = mount;
  if (!path.startsWith("/") || path.includes("\0") || posix.normalize(path) !== path || path.length > 4000) {
    invalid(`${JSON.stringify(path)} can't be a tmpfs mount: use an absolute path without . or ..`);
  }
  if (reservedPaths.includes(path) || insideReserved.test(path)) {
    invalid(`a tmpfs can't be mounted at ${path}`);
  }
  if (path.endsWith("/")) invalid(`${JSON.stringify(path)} ends with a slash`);
  if (!Number.isSafeInteger(mount.sizeBytes) || mount.sizeBytes <= 0)
    invalid(`the tmpfs at ${path} has no size`);
  if (!Number.isInteger(mount.mode) || mount.mode < 0 || mount.mode > 0o1777) {
    invalid(`the tmpfs at ${path} has the mode ${mount.mode}`);
  }
}

function invalid(message: string): never {
  throw new WarrenError("invalid_request", message);
}
