import { randomBytes } from "node:crypto";
import { lstat, mkdir, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { WarrenError } from "../../contracts/errors.ts";
import type { RuntimeMount, RuntimeSpec, VolumeStore } from "../../contracts/runtime.ts";
import { type VolumeInfo, VolumeName } from "../../contracts/volumes.ts";
import { run } from "../../lib/run.ts";
import { writeJson } from "./layout.ts";

const VolumeFile = z.object({ labels: z.record(z.string(), z.string()), createdAt: z.string() });

export interface FakeVolumes {
  store: VolumeStore;
  /** Where a mount's files are on the host. Throws `volume_not_found`, and `invalid_request` for a bind of nothing. */
  source(mount: RuntimeMount): Promise<string>;
}

/**
 * Volumes as directories. `specs` tells the sandboxes that there are, `removeSandbox` removes one. What a crash leaves of a
 * volume has a name that no volume has.
 */
export function createVolumes(
  dir: string,
  specs: () => Promise<RuntimeSpec[]>,
  removeSandbox: (id: string) => Promise<void>,
): FakeVolumes {
  const draft = (what: string) => join(dir, `.${what}-${randomBytes(8).toString("hex")}`);

  async function inspect(name: string): Promise<VolumeInfo | undefined> {
    const at = pathOf(dir, name);
    try {
      const { labels, createdAt } = VolumeFile.parse(
        JSON.parse(await readFile(join(at, "volume.json"), "utf8")),
      );
      return { name, runtime: "fake", labels, created_at: createdAt, mountpoint: join(at, "data") };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
  }

  async function names(prefix: string): Promise<string[]> {
    const all = await readdir(dir).catch(() => []);
    return all.filter((name) => VolumeName.safeParse(name).success && name.startsWith(prefix)).sort();
  }

  const store: VolumeStore = {
    async create(name, labels) {
      const there = await inspect(name);
      if (there) return there;
      const made = draft("new");
      await mkdir(join(made, "data"), { recursive: true, mode: 0o755 });
      await writeJson(join(made, "volume.json"), { labels, createdAt: new Date().toISOString() });
      try {
        await rename(made, pathOf(dir, name));
      } catch (error) {
        await rm(made, { recursive: true });
        if ((error as NodeJS.ErrnoException).code !== "ENOTEMPTY") throw error; // else another was faster
      }
      const info = await inspect(name);
      if (!info) throw new WarrenError("runtime_failed", `the volume ${name} has vanished`);
      return info;
    },
    inspect,
    async list(prefix) {
      const found = await Promise.all((await names(prefix)).map(inspect));
      return found.filter((info) => info !== undefined);
    },
    async remove(name, { force = false } = {}) {
      const users = (await specs()).filter((spec) =>
        spec.mounts.some(({ type, source }) => type === "volume" && source === name),
      );
      if (users.length > 0 && !force) {
        throw new WarrenError(
          "in_use",
          `the volume ${name} is mounted by ${users.map(({ id }) => id).join(", ")}`,
        );
      }
      for (const { id } of users) await removeSandbox(id);
      const old = draft("old");
      try {
        await rename(pathOf(dir, name), old);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
        throw error;
      }
      await rm(old, { recursive: true, force: true });
    },
    async diskUsage(prefix) {
      return await Promise.all(
        (await names(prefix)).map(async (name) => {
          const { stdout } = await run("du", ["-s", "--block-size=1", "--", join(pathOf(dir, name), "data")]);
          return { name, runtime: "fake", size: Number.parseInt(stdout.toString("utf8"), 10) };
        }),
      );
    },
  };

  return {
    store,
    async source({ type, source }) {
      if (type === "bind") {
        await stat(source).catch((cause: unknown) => {
          throw new WarrenError("file_not_found", `there is no ${JSON.stringify(source)} to mount`, {
            cause,
          });
        });
        return source;
      }
      const data = join(pathOf(dir, source), "data");
      await lstat(data).catch((cause: unknown) => {
        throw new WarrenError("volume_not_found", `there is no volume ${source}`, { cause });
      });
      return data;
    },
  };
}

function pathOf(dir: string, name: string): string {
  if (!VolumeName.safeParse(name).success) {
    throw new WarrenError("invalid_request", `${JSON.stringify(name)} is not a volume's name`);
  }
  return join(dir, name);
}
