import { stat } from "node:fs/promises";
import { WarrenError } from "../../../contracts/errors.ts";
import type { ImageProgress } from "../../../contracts/images.ts";
import type {
  BuildOptions,
  ImageStore,
  PreparedImage,
  ProgressOptions,
  Runtime,
} from "../../../contracts/runtime.ts";
import { isGone } from "../../../lib/files.ts";
import type { Logger } from "../../../lib/log.ts";
import { linkSignals, throwIfAborted } from "../../../lib/signals.ts";
import { createSingleFlight } from "../../../lib/single-flight.ts";
import { parseReference } from "../../common/images/reference.ts";
import { type ImageInspection, ImageList, readAnswer } from "../answers.ts";
import { EngineRefusal, engineFailure } from "../api-client.ts";
import { createEngineKind } from "../engine-kind.ts";
import type { Flavor } from "../flavor.ts";
import { isSnapshotName } from "../snapshots/names.ts";
import { build } from "./build.ts";
import { createDiskGuard } from "./disk.ts";
import { describeImage, imageId, imagePath, lookup, namesOf, OWNER_LABEL } from "./lookup.ts";
import { completeName, familiarName, isLocalName, nameBeginning, newName, registryName } from "./names.ts";
import { pull } from "./pull.ts";
import { createRegistryAuth } from "./registry-auth.ts";
import { identifyTar, importTar, type KnownTars, missingTar } from "./tar-image.ts";

export interface ImagesOptions {
  flavor: Pick<Flavor, "client" | "name" | "rlimits" | "openBuildService">;
  ownerId: string;
  log: Logger;
}

export interface Images {
  ensure: Runtime["images"]["ensure"];
  readonly store: ImageStore;
  /** Cancels what is under way, and waits for its end. */
  close(): Promise<void>;
}

type OnProgress = (progress: ImageProgress) => void;

/** Images that a container engine has, and what it takes to have them. */
export function createImages({ flavor, ownerId, log }: ImagesOptions): Images {
  const { client, name: runtime } = flavor;
  const kind = createEngineKind(client);
  const auth = createRegistryAuth(log);
  const labels = { [OWNER_LABEL]: ownerId };
  const flights = createSingleFlight<ImageInspection>();
  /** Who hears of what is under way, by its key. */
  const audiences = new Map<string, Set<OnProgress>>();
  const builds = new Set<Promise<unknown>>();
  const closing = new AbortController();
  const knownTars: KnownTars = new Map();
  const guarded = createDiskGuard(client);

  const tarName = (digest: string) => `localhost/warren-${ownerId}/tar:${digest}`;

  /** What the engine may have it as, the likeliest first. */
  async function namesFor(reference: string): Promise<string[]> {
    if (isImageId(reference)) return [reference];
    const wanted = parseReference(reference);
    if (wanted.kind === "path") return [tarName((await tarFile(wanted)).digest)];
    const { name, local } = registryName(reference);
    return local !== undefined && (await kind.isPodman()) ? [name, local] : [name];
  }

  async function find(reference: string): Promise<{ name: string; image: ImageInspection } | undefined> {
    for (const name of await namesFor(reference)) {
      const image = await lookup(client, name);
      if (image && !isSnapshot(image)) return { name, image };
    }
    return undefined;
  }

  /** As `find`; a file that is gone is an image that is not here. */
  async function findHere(reference: string): ReturnType<typeof find> {
    try {
      return await find(reference);
    } catch (error) {
      if (error instanceof WarrenError && error.code === "image_not_found") return undefined;
      throw error;
    }
  }

  async function tarFile({ path, expect }: { path: string; expect: string }, signal?: AbortSignal) {
    const info = await stat(path).catch((error: unknown) => {
      throw isGone(error) ? missingTar(path) : error;
    });
    if (expect === "directory" || info.isDirectory()) {
      throw new WarrenError("unsupported", `a directory can't be an image of ${runtime}: ${path}`, {
        hint: "give it a tar of it: tar -C DIRECTORY -cf image.tar .",
      });
    }
    return await identifyTar(path, knownTars, signal);
  }

  /** Once for all who want the same meanwhile, and all hear of it. */
  async function shared(
    key: string,
    { signal, onProgress }: ProgressOptions,
    task: (signal: AbortSignal, onProgress: OnProgress) => Promise<ImageInspection>,
  ): Promise<ImageInspection> {
    const audience = audiences.get(key) ?? new Set();
    audiences.set(key, audience);
    // A function of its own: two callers may give the same one.
    const mine: OnProgress = (progress) => onProgress?.(progress);
    const tell: OnProgress = (progress) => {
      for (const listener of audience) listener(progress);
    };
    audience.add(mine);
    try {
      return await flights.run(key, (own) => guarded(own, (either) => task(either, tell)), signal);
    } finally {
      audience.delete(mine);
      if (audience.size === 0 && audiences.get(key) === audience) audiences.delete(key);
    }
  }

  async function fetch(reference: string, progress: ProgressOptions): Promise<ImageInspection> {
    const wanted = registryName(reference);
    const isPodman = await kind.isPodman();
    if (isPodman && isLocalName(wanted.name)) throw notFound(reference, "only this machine can have it");
    return await shared(wanted.name, progress, async (signal, onProgress) => {
      await pull(wanted, { client, isPodman, auth }, { signal, onProgress });
      const image = await lookup(client, wanted.name);
      if (image) return image;
      throw new WarrenError("image_pull_failed", `${wanted.name} was pulled, and is gone again`);
    });
  }

  async function ensureTar(
    wanted: { path: string; expect: string },
    progress: ProgressOptions,
  ): Promise<ImageInspection> {
    const file = await tarFile(wanted, progress.signal);
    const name = tarName(file.digest);
    return await shared(name, progress, async (signal) => {
      const there = await lookup(client, name);
      if (there) return there;
      await importTar(client, file, name, labels, signal);
      const image = await lookup(client, name);
      if (image) return image;
      throw new WarrenError("image_invalid", `${runtime} made no image of ${file.path}`);
    });
  }

  async function buildNow(name: string, wanted: BuildOptions, signal: AbortSignal): Promise<ImageInspection> {
    const engine = {
      client,
      isPodman: await kind.isPodman(),
      auth,
      labels,
      rlimits: flavor.rlimits,
      openService: flavor.openBuildService,
    };
    const before = await lookup(client, name);
    const id = await guarded(signal, (either) => build(name, { ...wanted, signal: either }, engine));
    const image = await lookup(client, id);
    if (!image) throw new WarrenError("image_build_failed", `${name} was built, and is gone again`);
    if (before && before.Id !== image.Id) await removeReplaced(before.Id);
    return image;
  }

  /** What a build of ours had made under the name that another has now. */
  async function removeReplaced(id: string): Promise<void> {
    const image = await lookup(client, id);
    if (image?.Config?.Labels?.[OWNER_LABEL] !== ownerId || namesOf(image).length > 0) return;
    await client.json({ method: "DELETE", path: imagePath(id) }).catch((error: unknown) => {
      // Sandboxes or other images are made of it.
      if (!(error instanceof EngineRefusal)) throw error;
    });
  }

  const store: ImageStore = {
    async inspect(reference) {
      const found = await findHere(reference);
      return found && describeImage(calledBy(reference, found), runtime, found.image);
    },
    async pull(reference, progress = {}) {
      const image = await fetch(reference, progress);
      return describeImage(familiarName(registryName(reference).name), runtime, image);
    },
    async build(wanted) {
      const name = newName(wanted.tag);
      throwIfAborted(wanted.signal);
      using either = linkSignals(wanted.signal, closing.signal);
      const mine = buildNow(name, wanted, either.signal);
      builds.add(mine);
      try {
        return describeImage(familiarName(name), runtime, await mine);
      } finally {
        builds.delete(mine);
      }
    },
    async remove(reference) {
      const found = await findHere(reference);
      if (!found) return;
      await client.json({ method: "DELETE", path: imagePath(found.name) }).catch((error: unknown) => {
        if (error instanceof EngineRefusal && error.status === 404) return;
        const hint = "remove the sandboxes and containers that are made of it first";
        throw engineFailure(error, `the image ${reference} can't be removed`, { 409: "in_use" }, hint);
      });
    },
    async list(prefix) {
      const answer = await client.json({ path: "/images/json" }).catch((error: unknown) => {
        throw engineFailure(error, "the images can't be listed");
      });
      const images = readAnswer(ImageList, answer).map((image) => ({
        image,
        names: new Set(
          namesOf(image)
            .map(completeName)
            .filter((name) => !isSnapshotName(name)),
        ),
      }));
      const all = new Set(images.flatMap(({ names }) => [...names]));
      return images.flatMap(({ image, names }) =>
        [...names].flatMap((name) => {
          const reference = nameBeginning(prefix, name, all);
          return reference === undefined ? [] : [describeImage(reference, runtime, image)];
        }),
      );
    },
  };

  return {
    store,
    async ensure(reference, progress = {}) {
      throwIfAborted(progress.signal);
      if (!isImageId(reference)) {
        const wanted = parseReference(reference);
        if (wanted.kind === "path") return prepared(reference, await ensureTar(wanted, progress));
      }
      const found = await find(reference);
      if (found) return prepared(reference, found.image);
      if (isImageId(reference)) throw notFound(reference, "an id alone says not where to get it");
      return prepared(reference, await fetch(reference, progress));
    },
    async close() {
      closing.abort(new WarrenError("cancelled", "the engine was closed"));
      await Promise.allSettled([flights.close(), ...builds]);
    },
  };

  function notFound(reference: string, why: string): WarrenError {
    return new WarrenError("image_not_found", `${runtime} has no image ${reference}: ${why}`, {
      hint: "warren image ls shows what is there",
    });
  }
}

/** Of a configuration, whole: what is shorter may be a name. */
function isImageId(reference: string): boolean {
  return /^sha256:[0-9a-f]{64}$/.test(reference);
}

/** Of whatever owner. They are looked after by who made them. */
function isSnapshot(image: ImageInspection): boolean {
  const names = namesOf(image);
  return names.length > 0 && names.every(isSnapshotName);
}

/** What the user would call it. */
function calledBy(reference: string, { name, image }: { name: string; image: ImageInspection }): string {
  if (isImageId(reference)) return familiarName(namesOf(image).map(completeName)[0] ?? reference);
  return parseReference(reference).kind === "path" ? name : familiarName(registryName(reference).name);
}

function prepared(reference: string, { Id, Config }: ImageInspection): PreparedImage {
  const isSafe = (text: string) => !text.includes("\0");
  const env = (Config?.Env ?? []).filter(isSafe).map((entry): [string, string] => {
    const at = entry.indexOf("=");
    return at < 0 ? [entry, ""] : [entry.slice(0, at), entry.slice(at + 1)];
  });
  const cmd = [...(Config?.Entrypoint ?? []), ...(Config?.Cmd ?? [])];
  const { WorkingDir: workdir, User: user } = Config ?? {};
  return {
    id: imageId(Id),
    reference,
    env: Object.fromEntries(env.filter(([name]) => name !== "")),
    ...(workdir?.startsWith("/") && isSafe(workdir) ? { workdir } : {}),
    ...(user && isSafe(user) ? { user } : {}),
    ...(cmd.length > 0 && cmd.every(isSafe) ? { cmd } : {}),
  };
}
