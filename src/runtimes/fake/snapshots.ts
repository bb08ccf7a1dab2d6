import { mkdir, readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { WarrenError } from "../../contracts/errors.ts";
import type { RuntimeSpec, SnapshotStore } from "../../contracts/runtime.ts";
import { isAlive } from "../../lib/processes.ts";
import { run } from "../../lib/run.ts";
import { throwIfAborted } from "../../lib/signals.ts";
import { freeze, thaw } from "./freeze.ts";
import { isSandboxId, type Layout, readRun, writeJson } from "./layout.ts";
import { copyTree, onHost, snapshotImage } from "./rootfs.ts";

const DraftFile = z.object({ sandbox: z.string() });
const SnapshotFile = z.object({ sizeBytes: z.number().int() });

export interface FakeSnapshots {
  store: SnapshotStore;
  /** Has sandboxes go on that were held still for one when an engine ended. */
  recover(): Promise<void>;
}

/** Snapshots as copies of roots. One without its `snapshot.json` is half made, or half removed. */
export function createSnapshots(
  dir: string,
  layout: (id: string) => Layout,
  readSpec: (id: string) => Promise<RuntimeSpec>,
  removeTree: (path: string) => Promise<void>,
): FakeSnapshots {
  const pathOf = (id: string) => {
    if (!isSandboxId(id)) {
      throw new WarrenError("invalid_request", `${JSON.stringify(id)} is not a snapshot's id`);
    }
    return join(dir, id);
  };
  const ids = async () => (await readdir(dir)).filter(isSandboxId);

  const store: SnapshotStore = {
    async create(sandboxId, id, { signal } = {}) {
      throwIfAborted(signal);
      const { image } = await readSpec(sandboxId);
      const { root, ...files } = layout(sandboxId);
      const at = pathOf(id);
      await mkdir(at, { mode: 0o700 });
      try {
        await writeJson(join(at, "draft.json"), { sandbox: sandboxId });
        const guest = readRun({ root, ...files })?.guest;
        {
          await using _ = guest && isAlive(guest) ? await freeze(guest) : undefined;
          await copyTree(root, join(at, "root"), signal);
        }
        const sizeBytes = await diskUsage(join(at, "root"));
        throwIfAborted(signal);
        await writeJson(join(at, "snapshot.json"), { sizeBytes });
        return { id, sizeBytes, image: { ...image, id: snapshotImage(join(at, "root"), onHost(image.id)) } };
      } catch (error) {
        await removeTree(at);
        throw error;
      }
    },
    async list() {
      return await Promise.all(
        (await ids()).map(async (id) => {
          const { sizeBytes } = (await readJson(join(dir, id, "snapshot.json"), SnapshotFile)) ?? {
            sizeBytes: 0,
          };
          return { id, sizeBytes };
        }),
      );
    },
    remove: (id) => removeTree(pathOf(id)),
  };

  return {
    store,
    async recover() {
      for (const id of await ids()) {
        const isWhole = await stat(join(dir, id, "snapshot.json")).then(
          () => true,
          () => false,
        );
        const draft = isWhole ? undefined : await readJson(join(dir, id, "draft.json"), DraftFile);
        const guest = draft && isSandboxId(draft.sandbox) ? readRun(layout(draft.sandbox))?.guest : undefined;
        if (guest && isAlive(guest)) thaw(guest);
      }
    },
  };
}

/** Undefined when it isn't there, or is no such file. */
async function readJson<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  try {
    return schema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch {
    return undefined;
  }
}

async function diskUsage(path: string): Promise<number> {
  const { stdout } = await run("du", ["-s", "--block-size=1", "--", path]);
  return Number.parseInt(stdout.toString("utf8"), 10);
}
