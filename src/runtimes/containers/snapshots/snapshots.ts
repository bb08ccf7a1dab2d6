import { WarrenError } from "../../../contracts/errors.ts";
import type {
  Capabilities,
  RuntimeSnapshot,
  RuntimeSpec,
  SnapshotStore,
} from "../../../contracts/runtime.ts";
import type { OnStep } from "../../../contracts/steps.ts";
import type { Logger } from "../../../lib/log.ts";
import { throwIfAborted } from "../../../lib/signals.ts";
import { GUEST_DIR } from "../../common/guest-program.ts";
import {
  type ContainerState,
  ImageHistory,
  type ImageInspection,
  ImageList,
  readAnswer,
} from "../answers.ts";
import { EngineRefusal, engineFailure } from "../api-client.ts";
import { type Containers, isPaused, lives } from "../containers.ts";
import { createEngineKind } from "../engine-kind.ts";
import type { Flavor } from "../flavor.ts";
import { createDiskGuard } from "../images/disk.ts";
import { imageId, imagePath, lookup, namesOf, OWNER_LABEL } from "../images/lookup.ts";
import { readMessages } from "../images/messages.ts";
import type { SandboxDirs } from "../sandbox-dirs.ts";
import { type SnapshotImage, snapshotArchive } from "./archive.ts";
import { exportedBlobs } from "./exported-blobs.ts";
import type { Holds } from "./holds.ts";
import { type SnapshotKind, snapshotNames } from "./names.ts";

const ID_LABEL = "warren.snapshot";
/** In bytes: what the sandbox had changed. What it was made of may be gone later. */
const SIZE_LABEL = "warren.snapshot.size";

export interface SnapshotsOptions {
  flavor: Pick<Flavor, "client" | "name" | "hasContainerdImages">;
  capabilities: Pick<Capabilities, "pause">;
  ownerId: string;
  containers: Pick<Containers, "look" | "nameOf">;
  dirs: Pick<SandboxDirs, "readSpec">;
  holds: Pick<Holds, "begin" | "end">;
  log: Logger;
  onStep: OnStep;
}

export interface Snapshots extends SnapshotStore {
  /** Removes those that were removed while sandboxes were made of them, as far as none is any more. */
  sweep(): Promise<void>;
  /** After a sandbox was removed whose container was made of this image. */
  left(image: string): Promise<void>;
}

/** A container's root filesystem as an image of the engine's, whose layers it shares with what the container was made of. */
export function createSnapshots(options: SnapshotsOptions): Snapshots {
  const { flavor, capabilities, ownerId, containers, dirs, holds, log, onStep } = options;
  const { client, name: runtime, hasContainerdImages = false } = flavor;
  const names = snapshotNames(ownerId);
  const kind = createEngineKind(client);
  const guarded = createDiskGuard(client);
  /** Names of what was removed and is in use, by the image's id. */
  const retired = new Map<string, Set<string>>();

  const requireHoldable = async (id: string): Promise<ContainerState> => {
    const container = await containers.look(id);
    if (!container) throw new WarrenError("sandbox_not_found", `there is no sandbox ${id}`);
    refuseHidden(id, container, await dirs.readSpec(id));
    if (capabilities.pause || !lives(container)) return container;
    throw new WarrenError("unsupported", `${runtime} can't hold sandbox ${id} still for a snapshot`, {
      hint: `stop it first: warren stop ${id}`,
    });
  };

  /** The engine freezes what runs meanwhile, and thaws it. */
  const commit = async (sandboxId: string, id: string, container: ContainerState): Promise<void> => {
    const runs = lives(container) && !isPaused(container);
    const query = {
      container: containers.nameOf(sandboxId),
      repo: names.repository("draft"),
      tag: id,
      pause: runs,
    };
    if (runs) await holds.begin(sandboxId);
    onStep("container.held");
    try {
      // Not to be given up half way: the engine would go on, and nobody would know when it is done.
      await client.json({ method: "POST", path: "/commit", query, body: {}, timeoutMs: 0 });
      onStep("container.committed");
    } finally {
      if (runs) await holds.end(sandboxId);
    }
  };

  /** An image of what was committed and of nothing else. Gives what it takes of the disk, in bytes. */
  const clean = async (id: string): Promise<{ image: ImageInspection; sizeBytes: number }> => {
    const name = names.of("kept", id);
    const draft = await lookup(client, names.of("draft", id));
    if (!draft)
      throw new WarrenError("runtime_failed", "the engine has committed an image that it doesn't have");
    const sizeBytes = await topSize(draft.Id);
    const labels = { [OWNER_LABEL]: ownerId, [ID_LABEL]: id, [SIZE_LABEL]: String(sizeBytes) };
    const blobs = hasContainerdImages ? { blobs: await exportedBlobs(client, draft) } : {};
    const wanted: SnapshotImage = {
      name,
      labels,
      ...platformOf(draft),
      layers: layersOf(draft),
      ...blobs,
      createdAt: new Date(),
    };
    const isOci = hasContainerdImages || (await kind.isPodman());
    await load(snapshotArchive(wanted, isOci ? "oci" : "docker"));
    const image = await lookup(client, name);
    if (image && isWhatWasMeant(image, wanted)) return { image, sizeBytes };
    throw new WarrenError("runtime_failed", "the engine has made another image than it was given");
  };

  const load = async (archive: Buffer): Promise<void> => {
    const answer = await client.stream({
      method: "POST",
      path: "/images/load",
      query: { quiet: true },
      body: chunksOf(archive),
      timeoutMs: 0,
    });
    for await (const message of readMessages(answer)) {
      if (message.error !== undefined) throw new EngineRefusal(500, message.error);
    }
  };

  const topSize = async (image: string): Promise<number> => {
    const answer = await client.json({ path: imagePath(image, "/history") });
    return Math.max(0, readAnswer(ImageHistory, answer)[0]?.Size ?? 0);
  };

  /** False when something uses it. Gone already is success. */
  const removeImage = async (name: string): Promise<boolean> => {
    try {
      // What it was made of is not ours, and may have no name.
      await client.json({ method: "DELETE", path: imagePath(name), query: { noprune: true } });
      return true;
    } catch (error) {
      if (error instanceof EngineRefusal && error.status === 404) return true;
      if (error instanceof EngineRefusal && error.status === 409) return false;
      throw engineFailure(error, `the image ${name} can't be removed`);
    }
  };

  const remove = async (id: string): Promise<void> => {
    for (const which of ["draft", "kept"] as const) {
      const name = names.of(which, id);
      if (!(await removeImage(name))) await retire(name, id);
    }
  };

  /** Of one that is in use: nobody can be given it any more, and it goes with the last that is made of it. */
  const retire = async (name: string, id: string): Promise<void> => {
    const image = await lookup(client, name);
    if (!image) return;
    const query = { repo: names.repository("retired"), tag: id };
    await client.json({ method: "POST", path: imagePath(name, "/tag"), query }).catch((error: unknown) => {
      throw engineFailure(error, `the snapshot ${id} can't be removed`);
    });
    await removeImage(name);
    noteRetired(image.Id, names.of("retired", id));
    // That one may have gone before this was noted.
    await left(image.Id);
  };

  const noteRetired = (image: string, name: string) => {
    const known = retired.get(imageId(image)) ?? new Set();
    retired.set(imageId(image), known.add(name));
  };

  const left = async (image: string): Promise<void> => {
    const known = retired.get(imageId(image));
    for (const name of known ?? []) if (await removeImage(name)) known?.delete(name);
    if (known?.size === 0) retired.delete(imageId(image));
  };

  const images = async (...kinds: SnapshotKind[]) => {
    const filters = { reference: [names.pattern] };
    const answer = await client.json({ path: "/images/json", query: { filters } }).catch((error: unknown) => {
      throw engineFailure(error, "the snapshots can't be listed");
    });
    return readAnswer(ImageList, answer).flatMap((image) =>
      namesOf(image).flatMap((name) => {
        const parsed = names.parse(name);
        return parsed && kinds.includes(parsed.kind) ? [{ ...parsed, name, image }] : [];
      }),
    );
  };

  return {
    async create(sandboxId, id, { signal = new AbortController().signal } = {}) {
      throwIfAborted(signal);
      const container = await requireHoldable(sandboxId);
      if (await lookup(client, names.of("kept", id))) {
        throw new WarrenError("name_taken", `there is a snapshot ${id} already`);
      }
      const { image: original } = await dirs.readSpec(sandboxId);
      try {
        return await guarded(signal, async (either) => {
          await commit(sandboxId, id, container);
          throwIfAborted(either);
          const { image, sizeBytes } = await clean(id);
          onStep("container.kept");
          await removeImage(names.of("draft", id));
          onStep("container.snapshotted");
          throwIfAborted(either);
          return { id, sizeBytes, image: { ...original, id: imageId(image.Id) } };
        });
      } catch (error) {
        await remove(id).catch((cause: unknown) => {
          log.warn({ err: cause, snapshot: id }, "what a failed snapshot left could not be removed yet");
        });
        throw snapshotFailure(error, sandboxId);
      }
    },
    async list() {
      const found = new Map<string, RuntimeSnapshot>();
      for (const { id, image } of await images("kept", "draft")) {
        const noted = Number(image.Labels?.[SIZE_LABEL] ?? Number.NaN);
        const sizeBytes = Number.isSafeInteger(noted) && noted >= 0 ? noted : await topSize(image.Id);
        found.set(id, { id, sizeBytes: Math.max(sizeBytes, found.get(id)?.sizeBytes ?? 0) });
      }
      return [...found.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
    },
    async remove(id) {
      await remove(id);
      onStep("container.snapshot-removed");
    },
    async sweep() {
      for (const { name, image } of await images("retired")) {
        if (!(await removeImage(name))) noteRetired(image.Id, name);
      }
    },
    left,
  };
}

/** Docker gives each volume that an image declares a volume of the container's own, which is in no commit. */
function refuseHidden(id: string, { Mounts }: ContainerState, { mounts, tmpfs }: RuntimeSpec): void {
  const known = [...mounts.map(({ target }) => target), ...tmpfs.map(({ path }) => path)];
  const isOurs = (place: string) =>
    place === GUEST_DIR || place.startsWith(`${GUEST_DIR}/`) || known.includes(place);
  const hidden = (Mounts ?? []).filter(({ Type, Destination }) => Type === "volume" && !isOurs(Destination));
  if (hidden.length === 0) return;
  const places = hidden.map(({ Destination }) => Destination).join(", ");
  throw new WarrenError(
    "unsupported",
    `the image of sandbox ${id} declares ${places} as volumes, and a snapshot would lack what lies there`,
    { hint: "mount volumes of your own there, or use another runtime" },
  );
}

function platformOf({ Architecture, Variant, Os }: ImageInspection) {
  if (!Architecture || !Os) throw unreadable("what machine it is for");
  return { architecture: Architecture, os: Os, ...(Variant ? { variant: Variant } : {}) };
}

function layersOf({ RootFS }: ImageInspection): string[] {
  const layers = RootFS?.Layers ?? [];
  if (layers.length > 0 && layers.every((layer) => /^sha256:[0-9a-f]{64}$/.test(layer))) return layers;
  throw unreadable("its layers");
}

function unreadable(what: string): WarrenError {
  return new WarrenError("runtime_failed", `the engine does not tell of what it has committed: ${what}`);
}

function isWhatWasMeant(image: ImageInspection, { labels, layers }: SnapshotImage): boolean {
  const own = image.Config?.Labels ?? {};
  const isLabelled = Object.entries(labels).every(([key, value]) => own[key] === value);
  return isLabelled && layersOf(image).join() === layers.join() && (image.Config?.Env ?? []).length === 0;
}

function snapshotFailure(error: unknown, sandboxId: string): WarrenError {
  const what = `sandbox ${sandboxId} can't be kept as a snapshot`;
  // Engines have no status for it.
  if (error instanceof EngineRefusal && /no space left on device|disk quota exceeded/i.test(error.message)) {
    return new WarrenError("no_space", `${what}: ${error.message}`, { cause: error });
  }
  return engineFailure(error, what, { 404: "sandbox_not_found" });
}

async function* chunksOf(bytes: Buffer): AsyncGenerator<Buffer> {
  yield bytes;
}
