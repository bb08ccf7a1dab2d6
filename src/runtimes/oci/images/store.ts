import { rm } from "node:fs/promises";
import { WarrenError } from "../../../contracts/errors.ts";
import type { ImageInfo } from "../../../contracts/images.ts";
import type { BuildOptions, ImageStore, PreparedImage } from "../../../contracts/runtime.ts";
import { familiarName, parseReference } from "../../common/images/reference.ts";
import { type BuilderOptions, buildImage } from "./build.ts";
import { fetchOci, imageDir, imageFacts, knownDigest, knownNames, referenceFile, sourceOf } from "./oci.ts";

const REGISTRY = "docker://";

export interface ImageStoreOptions extends BuilderOptions {
  /** Ends with the runtime. */
  closing: AbortSignal;
  /** True while a sandbox is made of this image, or may be. */
  isUsed(digest: string): Promise<boolean>;
  /** Runs the task while no sandbox is being made of this image. */
  alone(digest: string, task: () => Promise<void>): Promise<void>;
  /** Discards what else was made of this image. */
  forget(digest: string): Promise<void>;
}

/** Images that have a name: pulled ones, and those that were built here. Their root filesystems are unpacked. */
export function createImageStore(options: ImageStoreOptions): ImageStore {
  const { dir } = options;

  const infoOf = async (name: string, digest: string): Promise<ImageInfo | undefined> => {
    const facts = await imageFacts(dir, digest);
    if (!facts) return undefined;
    return {
      reference: familiarName(name.slice(REGISTRY.length)),
      id: facts.configDigest ?? digest,
      runtime: "oci",
      ...(facts.size === undefined ? {} : { size: facts.size }),
      ...(facts.created === undefined ? {} : { created_at: facts.created }),
    };
  };
  const known = async (name: string): Promise<ImageInfo | undefined> => {
    const digest = await knownDigest(dir, name);
    return digest === undefined ? undefined : await infoOf(name, digest);
  };
  const infoOfNew = async (reference: string, image: PreparedImage): Promise<ImageInfo> => {
    const info = await infoOf(nameOf(reference), image.id);
    if (info) return info;
    throw new WarrenError("image_not_found", `${reference} was removed meanwhile`);
  };
  /** A manifest that lost a name is discarded with its last one, unless a sandbox still stands on it. */
  const discardUnnamed = async (digest: string): Promise<void> => {
    if ((await knownNames(dir)).some((other) => other.digest === digest)) return;
    if (await options.isUsed(digest)) return;
    await options.discard(imageDir(dir, digest));
    await options.forget(digest);
  };
  const replacing = async (reference: string, task: () => Promise<PreparedImage>): Promise<ImageInfo> => {
    const before = await knownDigest(dir, nameOf(reference));
    const image = await task();
    if (before !== undefined && before !== image.id) {
      await options.alone(before, () => discardUnnamed(before)).catch(() => {}); // in use: it stays
    }
    return await infoOfNew(reference, image);
  };
  const until = (signal: AbortSignal | undefined) =>
    signal ? AbortSignal.any([signal, options.closing]) : options.closing;

  return {
    async inspect(reference) {
      const wanted = parseReference(reference);
      return wanted.kind === "registry" ? await known(sourceOf(wanted).name) : undefined;
    },
    async pull(reference, { signal, onProgress } = {}) {
      const wanted = parseReference(reference);
      if (wanted.kind !== "registry") {
        throw new WarrenError("invalid_request", `${reference} is in no registry, so it can't be pulled`, {
          hint: "it can be used as it is",
        });
      }
      return await replacing(reference, () =>
        fetchOci(reference, sourceOf(wanted), { ...options, onProgress }, until(signal)),
      );
    },
    build: (build: BuildOptions) =>
      replacing(build.tag, () => buildImage(build, options, until(build.signal))),
    async remove(reference) {
      const name = nameOf(reference);
      const digest = await knownDigest(dir, name);
      if (digest === undefined) return;
      await options.alone(digest, async () => {
        if (await options.isUsed(digest)) {
          throw new WarrenError("in_use", `a sandbox or a snapshot is made of the image ${reference}`, {
            hint: "remove it first",
          });
        }
        await rm(referenceFile(dir, name), { force: true });
        options.onStep("image.unnamed");
        await discardUnnamed(digest);
      });
    },
    async list(prefix) {
      const names = (await knownNames(dir)).filter(({ name }) => name.startsWith(REGISTRY));
      const found = await Promise.all(names.map(({ name, digest }) => infoOf(name, digest)));
      return found
        .filter((info) => info !== undefined)
        .filter(({ reference }) => reference.startsWith(prefix))
        .sort((a, b) => (a.reference < b.reference ? -1 : 1));
    },
  };
}

function nameOf(reference: string): string {
  const wanted = parseReference(reference);
  if (wanted.kind === "registry") return sourceOf(wanted).name;
  throw new WarrenError("invalid_request", `${JSON.stringify(reference)} is not an image's name`);
}
