import { randomBytes } from "node:crypto";
import { mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../../contracts/errors.ts";
import type { PreparedImage, SnapshotStore } from "../../../contracts/runtime.ts";
import type { OnStep } from "../../../contracts/steps.ts";
import { noSpace, readText, statOrUndefined } from "../../../lib/files.ts";
import { createKeyedMutex } from "../../../lib/keyed-mutex.ts";
import { withDiskGuard } from "../../common/images/disk-guard.ts";
import { isSandboxId } from "../../common/sandbox-id.ts";
import type { Freezer } from "../freezer.ts";
import type { Launcher } from "../launcher-client.ts";
import { type Layout, sandboxPaths } from "../layout.ts";
import type { SandboxStore } from "../sandbox-store.ts";
import { createSnapshotRecords, type SnapshotRecord } from "./records.ts";
import { createRenumberedLayers, homeOf, layerIn } from "./renumbered.ts";

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
  onStep: OnStep;
}

/** What a sandbox that is being made from a snapshot stands on. Nothing of it goes before it is disposed. */
export interface Source extends AsyncDisposable, Pick<SnapshotRecord, "base" | "layers"> {
  /** Undefined: that of the image `base`, since this one has other owners. */
  lower: string | undefined;
}

export interface Snapshots {
  store: SnapshotStore;
  /**
   * Of the image id of a snapshot; undefined for another image's. `asUser`: what is root's in the new sandbox is the user's who runs
   * us. Throws `image_not_found`.
   */
  source(
    imageId: string,
    options: { asUser: boolean; signal?: AbortSignal | undefined },
  ): Promise<Source | undefined>;
  /** True while it is frozen for a snapshot and not paused. */
  isHeldStill(sandboxId: string): boolean;
  /** Lower layers that snapshots are made of, their own excepted. */
  lowers(): Promise<Set<string>>;
  /** After sandboxes were removed: discards layers that only they needed. */
  reclaim(): Promise<void>;
  /** Lets sandboxes go on that an earlier engine held still when it was killed, and discards what it left. */
  recover(): Promise<void>;
  close(): Promise<void>;
}

/**
 * A snapshot is a copy of a sandbox's own layer. It is the topmost lower layer of a sandbox that is made of it, above those that the
 * original stood on. So its files stay as long as a sandbox or another snapshot stands on them, also when the snapshot is removed.
 */
export function createSnapshots(options: SnapshotsOptions): Snapshots {
  const { layout, launcher, store, freezer, discard, onStep } = options;
  const dir = layout.snapshots;
  const layersDir = join(dir, "layers");
  const records = createSnapshotRecords(dir);
  const renumbered = createRenumberedLayers({ launcher, discard });
  const closing = new AbortController();
  const turns = createKeyedMutex();
  /** Which layers there are, and who needs them. */
  const exclusively = <T>(task: () => Promise<T>) => turns.run("layers", task);
  const leases = new Set<SnapshotRecord>();
  const heldStill = new Set<string>();
  /** Whether there are layers without a snapshot, which go with the last who needs them. */
  let hasOrphans = false;
  const layerNames = async () => ((await statOrUndefined(layersDir)) ? await readdir(layersDir) : []);

  const reclaim = () =>
    exclusively(async () => {
      const names = await layerNames();
      const homes = (paths: Iterable<string>) => new Set([...paths].map(homeOf));
      const known = homes((await records.list()).flatMap(({ layers }) => layers));
      const used = homes([
        ...(names.length > 0 ? await store.lowers() : []),
        ...[...leases].flatMap(({ layers }) => layers),
      ]);
      hasOrphans = false;
      for (const home of names.map((name) => join(layersDir, name))) {
        if (known.has(home)) continue;
        if (used.has(home)) hasOrphans = true;
        else await discard(home);
      }
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
      onStep("snapshot.froze");
      return await task();
    } finally {
      await freezer.thaw(sandboxId);
      onStep("snapshot.thawed");
      heldStill.delete(sandboxId);
      // Before anybody can pause it: the next engine would take that for ours.
      await rm(mark, { force: true });
      onStep("snapshot.unmarked");
    }
  };

  const make = async (sandboxId: string, id: string, signal: AbortSignal) => {
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
      onStep("snapshot.begun");
      const source = sandboxPaths(layout.sandbox(sandboxId).dir).upper;
      const sizeBytes = await still(sandboxId, half, () =>
        withDiskGuard(
          dir,
          signal,
          (guarded) => launcher.copy(source, layerIn(half), { skip: mountPoints, signal: guarded }),
          { unbounded: true },
        ),
      );
      if (signal.aborted) throw new WarrenError("cancelled", "the call was cancelled");
      const layers = [layerIn(home), ...beneath];
      const asUser = await options.isRootTheUser(sandboxId);
      await exclusively(async () => {
        await rename(half, home);
        onStep("snapshot.named");
        await records.write(id, { version: 1, image, base, lower, layers, asUser, sizeBytes });
        onStep("snapshot.made");
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
        turns.run(`snapshot ${id}`, () =>
          make(sandboxId, id, AbortSignal.any([closing.signal, ...(signal ? [signal] : [])])),
        ),
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
          onStep("snapshot.unlisted");
          await reclaim();
        });
      },
    },
    async source(imageId, { asUser, signal }) {
      if (!imageId.startsWith(PREFIX)) return undefined;
      const id = imageId.slice(PREFIX.length);
      const record = await exclusively(async () => {
        const found = isSandboxId(id) ? await records.read(id) : undefined;
        if (found) leases.add(found);
        return found;
      });
      if (!record) throw new WarrenError("image_not_found", `there is no snapshot ${id}`);
      const release = async () => {
        leases.delete(record);
        if (!(await records.read(id))) await reclaim();
      };
      const { base } = record;
      if (record.asUser === asUser) return { ...record, [Symbol.asyncDispose]: release };
      try {
        const layers: string[] = [];
        for (const layer of record.layers) layers.push(await renumbered.of(layer, { asUser, signal }));
        return { base, layers, lower: undefined, [Symbol.asyncDispose]: release };
      } catch (error) {
        await release();
        throw noSpace(error);
      }
    },
    isHeldStill: (sandboxId) => heldStill.has(sandboxId),
    async lowers() {
      return new Set([...(await records.list()), ...leases].map(({ lower }) => lower));
    },
    async reclaim() {
      if (hasOrphans) await reclaim();
    },
    async recover() {
      for (const name of await readdir(dir)) {
        if (!name.startsWith(HALF_MADE)) continue;
        const sandboxId = await readText(join(dir, name, "frozen"));
        if (sandboxId !== undefined && isSandboxId(sandboxId)) await freezer.thaw(sandboxId);
        await discard(join(dir, name));
      }
      await reclaim();
      for (const name of await layerNames()) await renumbered.sweep(join(layersDir, name));
    },
    async close() {
      closing.abort();
      await turns.idle();
      await renumbered.close();
    },
  };
}
