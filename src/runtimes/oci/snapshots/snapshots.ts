import { randomBytes } from "node:crypto";
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../../contracts/errors.ts";
import type { PreparedImage, SnapshotStore } from "../../../contracts/runtime.ts";
import { noSpace, readText, statOrUndefined } from "../../../lib/files.ts";
import { createKeyedMutex } from "../../../lib/keyed-mutex.ts";
import { withDiskGuard } from "../../common/images/disk-guard.ts";
import { isSandboxId } from "../../common/sandbox-id.ts";
import type { Freezer } from "../freezer.ts";
import type { Launcher } from "../launcher-client.ts";
import { type Layout, sandboxPaths } from "../layout.ts";
import type { SandboxStore } from "../sandbox-store.ts";
import { createSnapshotRecords, type SnapshotRecord } from "./records.ts";

const PREFIX = "snapshot:";
const HALF_MADE = ".new-";
/** Each makes looking up a file slower, and overlayfs takes no more than 500. */
const MAX_LAYERS = 64;
/** What lies there while a sandbox runs is mounted, and where a container runtime mounts no layer has anything. */
const mountPoints = ["proc", "dev", "sys", ".warren"];

export interface SnapshotsOptions {
  layout: Layout;
  launcher: Launcher;
  store: SandboxStore;
  freezer: Freezer;
  isRunning(sandboxId: string): Promise<boolean>;
  /** Whether what is root's in it is the user's who runs us. */
  isRootTheUser(sandboxId: string): Promise<boolean>;
  discard(path: string): Promise<void>;
}

/** What a sandbox that is being made from a snapshot stands on. Nothing of it goes before it is disposed. */
export interface Source
  extends AsyncDisposable,
    Pick<SnapshotRecord, "base" | "lower" | "layers" | "asUser"> {}

export interface Snapshots {
  store: SnapshotStore;
  /** Of the image id of a snapshot; undefined for another image's. Throws `image_not_found`. */
  source(imageId: string): Promise<Source | undefined>;
  /** True while it is frozen for a snapshot and not paused. */
  isHeldStill(sandboxId: string): boolean;
  /** Lower layers that snapshots are made of, their own excepted. */
  lowers(): Promise<Set<string>>;
  /** After sandboxes were removed: discards layers that only they needed. */
  reclaim(): Promise<void>;
  /** Lets sandboxes go on that an earlier engine held still when it was killed, and discards what it left. */
  recover(): Promise<void>;
}

/**
 * A snapshot is a copy of a sandbox's own layer. It is the topmost lower layer of a sandbox that is made of it, above those that the
 * original stood on. So its files stay as long as a sandbox or another snapshot stands on them, also when the snapshot is removed.
 */
export function createSnapshots(options: SnapshotsOptions): Snapshots {
  const { layout, launcher, store, freezer, discard } = options;
  const dir = layout.snapshots;
  const layersDir = join(dir, "layers");
  const records = createSnapshotRecords(dir);
  const turns = createKeyedMutex();
  /** Which layers there are, and who needs them. */
  const exclusively = <T>(task: () => Promise<T>) => turns.run("layers", task);
  const leases = new Set<SnapshotRecord>();
  const heldStill = new Set<string>();
  /** Layers without a snapshot: they go with the last who needs them. */
  let orphans = new Set<string>();

  const reclaim = () =>
    exclusively(async () => {
      const layers = (await statOrUndefined(layersDir)) ? await readdir(layersDir) : [];
      const byRecord = new Set((await records.list()).flatMap((record) => record.layers));
      const bySandbox = layers.length > 0 ? await store.lowers() : new Set<string>();
      for (const { layers: leased } of leases) for (const layer of leased) bySandbox.add(layer);
      const left = new Set<string>();
      for (const name of layers) {
        const layer = layerIn(join(layersDir, name));
        if (byRecord.has(layer)) continue;
        if (bySandbox.has(layer)) left.add(layer);
        else await discard(join(layersDir, name));
      }
      orphans = left;
    });

  /** Runs the task while nothing inside runs. */
  const still = async <T>(sandboxId: string, half: string, task: () => Promise<T>): Promise<T> => {
    if (!(await options.isRunning(sandboxId)) || freezer.isFrozen(sandboxId)) return await task();
    if (!freezer.isAvailable) {
      throw new WarrenError("unsupported", `sandbox ${sandboxId} runs, and this host can't pause sandboxes`, {
        hint: "stop the sandbox first, or mount the freezer: mount -t cgroup -o freezer cgroup /sys/fs/cgroup/freezer",
      });
    }
    const mark = join(half, "frozen");
    await writeFile(mark, sandboxId, { mode: 0o600 });
    heldStill.add(sandboxId);
    try {
      await freezer.freeze(sandboxId);
      return await task();
    } finally {
      await freezer.thaw(sandboxId);
      heldStill.delete(sandboxId);
      // Before anybody can pause it: the next engine would take that for ours.
      await rm(mark, { force: true });
    }
  };

  const make = async (sandboxId: string, id: string, signal: AbortSignal | undefined) => {
    if (!isSandboxId(id)) {
      throw new WarrenError("invalid_request", `${JSON.stringify(id)} can't be a snapshot's id`);
    }
    const { spec, lower, layers: beneath = [], base = spec.image.id } = await store.read(sandboxId);
    if (await records.read(id)) throw new WarrenError("name_taken", `there is a snapshot ${id} already`);
    if (beneath.length >= MAX_LAYERS) {
      throw new WarrenError(
        "unsupported",
        `sandbox ${sandboxId} stands on ${beneath.length} snapshots already`,
        {
          hint: "make a sandbox of the image, and copy what is needed into it",
        },
      );
    }
    const half = join(dir, `${HALF_MADE}${id}`);
    await discard(half);
    const home = join(layersDir, randomBytes(12).toString("hex"));
    const { workdir, user, cmd, env, reference } = spec.image;
    const image: PreparedImage = {
      id: `${PREFIX}${id}`,
      reference,
      env,
      ...(workdir === undefined ? {} : { workdir }),
      ...(user === undefined ? {} : { user }),
      ...(cmd === undefined ? {} : { cmd }),
    };
    try {
      await mkdir(layersDir, { recursive: true, mode: 0o700 });
      await mkdir(half, { mode: 0o700 });
      const source = sandboxPaths(layout.sandbox(sandboxId).dir).upper;
      const sizeBytes = await still(sandboxId, half, () =>
        withDiskGuard(
          dir,
          signal ?? new AbortController().signal,
          (guarded) => launcher.copy(source, layerIn(half), { skip: mountPoints, signal: guarded }),
          { unbounded: true },
        ),
      );
      if (signal?.aborted) throw new WarrenError("cancelled", "the call was cancelled");
      const layers = [layerIn(home), ...beneath];
      const asUser = await options.isRootTheUser(sandboxId);
      await exclusively(async () => {
        await rename(half, home);
        await records.write(id, { version: 1, image, base, lower, layers, asUser, sizeBytes });
      });
      return { id, sizeBytes, image };
    } catch (error) {
      await discard(half);
      await discard(home);
      throw noSpace(error);
    }
  };

  return {
    store: {
      create: (sandboxId, id, { signal } = {}) =>
        turns.run(`snapshot ${id}`, () => make(sandboxId, id, signal)),
      async list() {
        const whole = (await records.list()).map(({ id, sizeBytes }) => ({ id, sizeBytes }));
        const halves = (await readdir(dir))
          .filter((name) => name.startsWith(HALF_MADE))
          .map((name) => ({ id: name.slice(HALF_MADE.length), sizeBytes: 0 }));
        return [...whole, ...halves];
      },
      async remove(id) {
        if (!isSandboxId(id)) return;
        await turns.run(`snapshot ${id}`, async () => {
          await discard(join(dir, `${HALF_MADE}${id}`));
          await exclusively(() => records.remove(id));
          await reclaim();
        });
      },
    },
    async source(imageId) {
      if (!imageId.startsWith(PREFIX)) return undefined;
      const id = imageId.slice(PREFIX.length);
      const record = await exclusively(async () => {
        const found = isSandboxId(id) ? await records.read(id) : undefined;
        if (found) leases.add(found);
        return found;
      });
      if (!record) throw new WarrenError("image_not_found", `there is no snapshot ${id}`);
      return {
        ...record,
        async [Symbol.asyncDispose]() {
          leases.delete(record);
          if (!(await records.read(id))) await reclaim();
        },
      };
    },
    isHeldStill: (sandboxId) => heldStill.has(sandboxId),
    async lowers() {
      return new Set([...(await records.list()), ...leases].map(({ lower }) => lower));
    },
    async reclaim() {
      if (orphans.size > 0) await reclaim();
    },
    async recover() {
      for (const name of await readdir(dir)) {
        if (!name.startsWith(HALF_MADE)) continue;
        const sandboxId = await readText(join(dir, name, "frozen"));
        if (sandboxId !== undefined && isSandboxId(sandboxId)) await freezer.thaw(sandboxId);
        await discard(join(dir, name));
      }
      await reclaim();
    },
  };
}

/** Its root directory has the owner and mode that it had, so another directory of ours is around it. */
const layerIn = (home: string) => join(home, "layer");
