import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { StoredImage } from "../../../contracts/stored-spec.ts";
import { readJson, writeAtomically } from "../../../lib/files.ts";
import { isSandboxId } from "../../common/sandbox-id.ts";

const Record = z.object({
  version: z.literal(1),
  image: StoredImage,
  /** Id of the image that `lower` is of. */
  base: z.string(),
  lower: z.string(),
  /** Topmost first; the first one is the snapshot's own. */
  layers: z.array(z.string()).min(1),
  /** Whether what is root's inside is the user's who runs us. */
  asUser: z.boolean(),
  sizeBytes: z.number(),
});
export type SnapshotRecord = z.infer<typeof Record>;

const SUFFIX = ".json";

/** What is known of snapshots, one file each. A snapshot is there when its record is. */
export interface SnapshotRecords {
  read(id: string): Promise<SnapshotRecord | undefined>;
  write(id: string, record: SnapshotRecord): Promise<void>;
  remove(id: string): Promise<void>;
  list(): Promise<(SnapshotRecord & { id: string })[]>;
}

export function createSnapshotRecords(dir: string): SnapshotRecords {
  const file = (id: string) => join(dir, `${id}${SUFFIX}`);
  const read = (id: string) => readJson(file(id), Record);
  return {
    read,
    write: (id, record) => writeAtomically(file(id), JSON.stringify(record)),
    remove: (id) => rm(file(id), { force: true }),
    async list() {
      const ids = (await readdir(dir))
        .filter((name) => name.endsWith(SUFFIX))
        .map((name) => name.slice(0, -SUFFIX.length))
        .filter(isSandboxId);
      const found = await Promise.all(ids.map(async (id) => ({ id, record: await read(id) })));
      return found.flatMap(({ id, record }) => (record ? [{ id, ...record }] : [])).sort(byId);
    },
  };
}

const byId = (a: { id: string }, b: { id: string }) => (a.id < b.id ? -1 : 1);
