import { realpath, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import type { RuntimeMount, RuntimeSpec } from "../../contracts/runtime.ts";
import { isWithin, statOrUndefined } from "../../lib/files.ts";
import type { Launcher, OutsideMount } from "./launcher-client.ts";
import { launcherErrno } from "./launcher-link.ts";
import { volumeMissing } from "./volumes.ts";

/** What a sandbox of ours must not see, whoever asks for it: the kernel's own files, and those of all sandboxes. */
const kernelPlaces = ["/proc", "/sys", "/dev"];

export interface Outside {
  /**
   * Looks whether all is there and can be mounted.
   * @throws WarrenError `volume_not_found`, `file_not_found`, `invalid_request`, `permission_denied`, `unsupported` where
   * ids can't be mapped
   */
  check(mounts: readonly RuntimeMount[]): Promise<void>;
  /** Volumes, binds and tmpfs of a sandbox, parents before what lies in them. */
  mounts(spec: RuntimeSpec): OutsideMount[];
}

export function createOutside(options: {
  launcher: Launcher;
  /** Real path. */
  stateDir: string;
  volumePath(name: string): string;
}): Outside {
  const { launcher, stateDir, volumePath } = options;

  const checkBind = async (source: string): Promise<void> => {
    if (source === "/" || kernelPlaces.some((place) => isWithin(source, place))) {
      throw refuse(`${source} can't be mounted in a sandbox`);
    }
    if (isWithin(stateDir, source) || isWithin(source, stateDir) || (await isAncestor(source, stateDir))) {
      throw refuse(`${source} overlaps with the state directory, which no sandbox may see`);
    }
    // No link is followed: a sandbox that could write to a directory on the way may have made it.
    await launcher.checkOutside(source).catch(async (error: unknown) => {
      throw await inOurWords(error, source);
    });
  };

  return {
    async check(mounts) {
      for (const { type, source } of mounts) {
        if (type === "bind") await checkBind(source);
        else if (!(await statOrUndefined(volumePath(source)))) throw volumeMissing(source);
      }
    },
    mounts(spec) {
      const staged = spec.isolation === "gvisor" ? { staged: true } : {};
      const trees = spec.mounts.map(
        (mount): OutsideMount => ({
          kind: "tree",
          source: mount.type === "volume" ? volumePath(mount.source) : mount.source,
          target: mount.target,
          readonly: mount.readonly,
          ...staged,
        }),
      );
      // gVisor's kernel has its own.
      const tmpfs = spec.isolation === "gvisor" ? [] : spec.tmpfs;
      return parentsFirst([
        ...tmpfs.map(
          ({ path, ...rest }): OutsideMount => ({
            kind: "tmpfs",
            target: path,
            readonly: rest.readonly,
            sizeBytes: rest.sizeBytes,
            exec: rest.exec,
            mode: rest.mode,
          }),
        ),
        ...trees,
      ]);
    },
  };
}

/** So that no mount hides one that was asked for below it. */
export function parentsFirst<T extends { target: string }>(mounts: readonly T[]): T[] {
  const depth = ({ target }: T) => target.split("/").length;
  return mounts.toSorted((a, b) => depth(a) - depth(b));
}

/** True when it is a directory that the other is in, under whatever name. */
async function isAncestor(path: string, of: string): Promise<boolean> {
  const wanted = await stat(path, { bigint: true }).catch(() => undefined);
  for (let dir = of; wanted; dir = dirname(dir)) {
    const here = await stat(dir, { bigint: true });
    if (here.dev === wanted.dev && here.ino === wanted.ino) return true;
    if (dir === "/") break;
  }
  return false;
}

async function inOurWords(error: unknown, source: string): Promise<unknown> {
  switch (launcherErrno(error)) {
    case "ENOENT":
    case "ENOTDIR":
      return new WarrenError("file_not_found", `${source} does not exist, so it can't be mounted`, {
        hint: "a bind is looked up on the host that runs the engine",
      });
    case "ELOOP": {
      const target = await realpath(source).catch(() => undefined);
      const name =
        target === undefined ? "the directory by its real path" : `${target}, if that is what is meant`;
      return refuse(`${source} is or has a link, and none is followed`, `mount ${name}`);
    }
    case "ENODEV":
      return refuse(`${source} is neither a directory nor a regular file`);
    case "EACCES":
      return new WarrenError("permission_denied", `the user who runs the engine may not open ${source}`);
    case "ENOTSUP":
      return new WarrenError(
        "unsupported",
        `the filesystem of ${source}, or of what is mounted below it, has no id-mapped mounts: its files would be nobody's inside`,
        { hint: "use a directory on ext4, xfs, btrfs, or tmpfs (Linux 6.3), without other mounts below it" },
      );
    default:
      return error;
  }
}

function refuse(message: string, hint?: string): WarrenError {
  return new WarrenError("invalid_request", message, hint === undefined ? {} : { hint });
}
