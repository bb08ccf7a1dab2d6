import { randomBytes } from "node:crypto";
import { mkdir, readdir, rename } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { WarrenError } from "../../contracts/errors.ts";
import type { VolumeStore } from "../../contracts/runtime.ts";
import type { OnStep } from "../../contracts/steps.ts";
import { type VolumeInfo, VolumeName, type VolumeUsage } from "../../contracts/volumes.ts";
import { makeDir, noSpace, readJson, statOrUndefined, writeAtomically } from "../../lib/files.ts";
import { createHolds } from "./holds.ts";
import type { Launcher } from "./launcher-client.ts";
import { treeSize } from "./tree-size.ts";

/** A directory gets its real name last, so one without this prefix is complete. No volume's name begins with a dot. */
const HALF_MADE = ".new-";

const Record = z.object({
  version: z.literal(1),
  labels: z.record(z.string(), z.string()),
  createdAt: z.string(),
});

export interface Volumes extends VolumeStore {
  /**
   * The directories of these volumes, which nobody removes until it is disposed.
   * @throws WarrenError `volume_not_found`, `in_use` for one that is being removed
   */
  hold(names: readonly string[]): Promise<Disposable>;
  /** Absolute path of the directory that sandboxes see. */
  path(name: string): string;
  /** Discards what an earlier engine had half made. */
  sweep(): Promise<void>;
}

export interface VolumesOptions {
  /** `<stateDir>/oci/volumes` */
  dir: string;
  launcher: Launcher;
  discard(path: string): Promise<void>;
  onStep: OnStep;
  /** Ids of sandboxes that have it in their spec. */
  users(name: string): Promise<string[]>;
  removeSandbox(id: string): Promise<void>;
}

/** Volumes are directories: `<name>/data` is what sandboxes see, and `<name>/volume.json` says what else there is to know. */
export function createVolumes(options: VolumesOptions): Volumes {
  const { dir, launcher, discard, onStep } = options;
  const holds = createHolds("volume");
  const home = (name: string) => {
    if (VolumeName.safeParse(name).success) return join(dir, name);
    throw new WarrenError("invalid_request", `${JSON.stringify(name)} can't be a volume's name`);
  };
  const path = (name: string) => join(home(name), "data");
  const recordFile = (parent: string) => join(parent, "volume.json");

  const inspect = async (name: string): Promise<VolumeInfo | undefined> => {
    if (!(await statOrUndefined(path(name)))) return undefined;
    // What is in it is worth more than its record.
    const record = await readJson(recordFile(home(name)), Record);
    return {
      name,
      runtime: "oci",
      labels: record?.labels ?? {},
      ...(record ? { created_at: record.createdAt } : {}),
      mountpoint: path(name),
    };
  };
  const names = async (prefix: string): Promise<string[]> =>
    (await readdir(dir))
      .filter((name) => name.startsWith(prefix) && VolumeName.safeParse(name).success)
      .sort();
  const refuseUsed = async (name: string): Promise<void> => {
    const [user] = await options.users(name);
    if (user === undefined) return;
    throw new WarrenError("in_use", `the sandbox ${user} has the volume ${name}`, {
      hint: "remove the sandbox first, or remove the volume with force",
    });
  };

  return {
    inspect,
    path,
    async create(name, labels) {
      const there = await inspect(name);
      if (there) return there;
      const temporary = join(dir, `${HALF_MADE}${name}-${randomBytes(6).toString("hex")}`);
      try {
        await mkdir(temporary, { mode: 0o700 });
        onStep("volume.begun");
        const record = { version: 1, labels, createdAt: new Date().toISOString() };
        await writeAtomically(recordFile(temporary), JSON.stringify(record));
        await makeDir(join(temporary, "data"), 0o755);
        await rename(temporary, home(name));
        onStep("volume.made");
      } catch (error) {
        await discard(temporary);
        const code = (error as NodeJS.ErrnoException).code;
        if (code !== "ENOTEMPTY" && code !== "EEXIST") throw noSpace(error);
      }
      const made = await inspect(name);
      if (made) return made;
      throw new WarrenError("volume_not_found", `the volume ${name} was removed while it was made`);
    },
    async list(prefix) {
      const found = await Promise.all((await names(prefix)).map(inspect));
      return found.filter((volume) => volume !== undefined);
    },
    async remove(name, { force = false } = {}) {
      const target = home(name);
      if (force) for (const id of await options.users(name)) await options.removeSandbox(id);
      await holds.alone(name, async () => {
        await refuseUsed(name);
        await discard(target);
      });
    },
    async diskUsage(prefix) {
      const usage: VolumeUsage[] = [];
      for (const name of await names(prefix)) {
        const size = await treeSize(launcher, path(name));
        if (size !== undefined) usage.push({ name, runtime: "oci", size });
        else if (await statOrUndefined(path(name))) {
          throw new WarrenError("runtime_failed", `the size of the volume ${name} can't be told`);
        }
      }
      return usage;
    },
    async hold(wanted) {
      const held = holds.hold(wanted);
      for (const name of wanted) {
        if (await statOrUndefined(path(name))) continue;
        held[Symbol.dispose]();
        throw volumeMissing(name);
      }
      return held;
    },
    async sweep() {
      for (const name of await readdir(dir)) if (name.startsWith(HALF_MADE)) await discard(join(dir, name));
    },
  };
}

export function volumeMissing(name: string): WarrenError {
  return new WarrenError("volume_not_found", `there is no volume ${name}`, {
    hint: `create it first: warren volume create ${name}`,
  });
}
