import { WarrenError } from "../contracts/errors.ts";
import type { RuntimeSpec } from "../contracts/runtime.ts";
import type { TmpfsMount } from "../contracts/storage.ts";
import { parseSize } from "../lib/units.ts";
import { mountPath } from "./mount-path.ts";

type Tmpfs = RuntimeSpec["tmpfs"][number];

const MIB = 1024 ** 2;
/** den's limit for one mount. A tmpfs is memory, and counts against the sandbox's limit. */
const MAX_TMPFS_BYTES = 4 * 1024 * MIB;

/**
 * Writable places of a read-only root, with den's sizes. Unlike den's they allow exec where people build and run
 * things: virtual environments and compiled programs live there, and noexec keeps no interpreter from running a script.
 */
const readonlyRootDefaults: readonly Tmpfs[] = [
  { path: "/tmp", sizeBytes: 256 * MIB, readonly: false, exec: true, mode: 0o1777 },
  { path: "/var/tmp", sizeBytes: 128 * MIB, readonly: false, exec: true, mode: 0o1777 },
  { path: "/run", sizeBytes: 64 * MIB, readonly: false, exec: false, mode: 0o755 },
  // Anyone's to write: which user's home it is, only the image knows.
  { path: "/home/sandbox", sizeBytes: 512 * MIB, readonly: false, exec: true, mode: 0o1777 },
  { path: "/root", sizeBytes: 512 * MIB, readonly: false, exec: true, mode: 0o700 },
];

/**
 * The tmpfs mounts of a sandbox, parents before children; those asked for replace the defaults of a read-only root.
 * @throws WarrenError `invalid_request` naming the mount.
 */
export function tmpfsMounts(asked: readonly TmpfsMount[], readonlyRoot: boolean): Tmpfs[] {
  const mounts = new Map<string, Tmpfs>();
  if (readonlyRoot) for (const mount of readonlyRootDefaults) mounts.set(mount.path, mount);
  const seen = new Set<string>();
  for (const [index, mount] of asked.entries()) {
    const parsed = parseMount(mount, `storage.tmpfs.${index}`);
    if (seen.has(parsed.path)) throw refuse(`storage.tmpfs.${index}.path`, `${parsed.path} is mounted twice`);
    seen.add(parsed.path);
    mounts.set(parsed.path, parsed);
  }
  return [...mounts.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
}

function parseMount(mount: TmpfsMount, field: string): Tmpfs {
  const sizeBytes = parseSize(mount.size);
  if (sizeBytes < 1 || sizeBytes > MAX_TMPFS_BYTES) {
    throw refuse(`${field}.size`, "a size is more than 0 and at most 4g");
  }
  return {
    path: mountPath(mount.path, `${field}.path`),
    sizeBytes,
    mode: 0o1777, // as a container engine's --tmpfs: usable by whichever user the commands run as
    ...mountOptions(mount.options ?? "", `${field}.options`),
  };
}

/** den's words. `nosuid` and `nodev` always hold; asking for less is refused. The last of two opposites wins. */
function mountOptions(text: string, field: string): { readonly: boolean; exec: boolean } {
  const result = { readonly: false, exec: false };
  for (const option of text.split(",").map((word) => word.trim())) {
    switch (option) {
      case "":
      case "nosuid":
      case "nodev":
        break;
      case "rw":
      case "ro":
        result.readonly = option === "ro";
        break;
      case "exec":
      case "noexec":
        result.exec = option === "exec";
        break;
      case "suid":
      case "dev":
        throw refuse(field, `${option} is not allowed: every tmpfs is nosuid and nodev`);
      default:
        throw refuse(field, `${JSON.stringify(option)} is not one of rw, ro, exec, noexec, nosuid, nodev`);
    }
  }
  return result;
}

function refuse(field: string, complaint: string): WarrenError {
  return new WarrenError("invalid_request", `${field}: ${complaint}`);
}
