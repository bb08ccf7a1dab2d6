import { posix } from "node:path";
import { WarrenError } from "../contracts/errors.ts";
import type { RuntimeMount, RuntimeSpec } from "../contracts/runtime.ts";
import type { StorageConfig } from "../contracts/storage.ts";
import { VolumeName } from "../contracts/volumes.ts";
import { mountPath } from "./mount-path.ts";

/**
 * The volumes and directories that a sandbox mounts, parents before children, and the tmpfs that are left: what is asked for
 * takes the place of a default one.
 * @throws WarrenError `invalid_request` naming the mount.
 */
export function withMounts(
  tmpfs: RuntimeSpec["tmpfs"],
  { volumes = [], binds = [], tmpfs: asked = [] }: StorageConfig = {},
): Pick<RuntimeSpec, "tmpfs" | "mounts"> {
  const mounts = [
    ...volumes.map(({ name, mount_path, read_only }, index): [string, RuntimeMount] => {
      const field = `storage.volumes.${index}`;
      const parsed = VolumeName.safeParse(name);
      if (!parsed.success) throw refuse(`${field}.name`, parsed.error.issues[0]?.message ?? "not a name");
      return [field, mount("volume", name, mount_path, read_only, field)];
    }),
    ...binds.map(({ source, mount_path, read_only }, index): [string, RuntimeMount] => {
      const field = `storage.binds.${index}`;
      return [field, mount("bind", hostPath(source, `${field}.source`), mount_path, read_only, field)];
    }),
  ];
  const taken = new Set(asked.map(({ path }, index) => mountPath(path, `storage.tmpfs.${index}.path`)));
  for (const [field, { target }] of mounts) {
    if (taken.has(target)) throw refuse(`${field}.mount_path`, `${target} is mounted twice`);
    taken.add(target);
  }
  const targets = new Set(mounts.map(([, { target }]) => target));
  return {
    tmpfs: tmpfs.filter(({ path }) => !targets.has(path)),
    mounts: mounts.map(([, parsed]) => parsed).sort((a, b) => (a.target < b.target ? -1 : 1)),
  };
}

function mount(
  type: RuntimeMount["type"],
  source: string,
  target: string,
  readonly = false,
  field: string,
): RuntimeMount {
  return { type, source, target: mountPath(target, `${field}.mount_path`), readonly };
}

function hostPath(path: string, field: string): string {
  if (path.includes("\0")) throw refuse(field, "path contains null byte");
  if (!posix.isAbsolute(path)) throw refuse(field, "absolute path required");
  return posix.normalize(path).replace(/(.)\/$/, "$1");
}

function refuse(field: string, complaint: string): WarrenError {
  return new WarrenError("invalid_request", `${field}: ${complaint}`);
}
