import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../../contracts/errors.ts";
import type { ImageStore, PreparedImage } from "../../../contracts/runtime.ts";
import type { OnStep } from "../../../contracts/steps.ts";
import { isGone, statOrUndefined } from "../../../lib/files.ts";
import { createSingleFlight } from "../../../lib/single-flight.ts";
import { parseReference } from "../../common/images/reference.ts";
import type { OpenBuildBox } from "../build-box.ts";
import { createHolds } from "../holds.ts";
import type { Launcher, ReadonlyBind } from "../launcher-client.ts";
import type { Own } from "../sandbox-store.ts";
import { ensureCopiedDirectory } from "./copied-directory.ts";
import { ensureDirectory, missing, resolveDirectory } from "./directory.ts";
import { createHostImage, type HostImageOptions } from "./host.ts";
import { ensureOci, imageDir, knownNames, ociRootfs } from "./oci.ts";
import { createImageStore } from "./store.ts";
import { ensureTar } from "./tar.ts";
import { createUserViews } from "./user-view.ts";

export interface Images {
  store: ImageStore;
  /**
   * Until it is disposed nobody removes this image. Throws `in_use` when it is being removed.
   */
  hold(imageId: string): Disposable;
  ensure(reference: string, options?: { signal?: AbortSignal }): Promise<PreparedImage>;
  /**
   * The lower layer for a new sandbox of this image. `asUser`: one in which root is the user who runs us, which may have to be
   * made first. Throws `image_not_found` when the image is gone.
   */
  lower(imageId: string, options: { asUser: boolean; signal?: AbortSignal | undefined }): Promise<string>;
  /** What is mounted over that layer when a sandbox of this image starts. */
  binds(imageId: string): Promise<ReadonlyBind[]>;
  /** Discards what an earlier engine was fetching when it was killed. */
  sweep(): Promise<void>;
  close(): Promise<void>;
}

export interface ImagesOptions {
  launcher: Launcher;
  /** `<stateDir>/oci/images` */
  dir: string;
  /** Real path. */
  stateDir: string;
  discard(path: string): Promise<void>;
  own: Own;
  /** True where ids can't be mapped on mounts, so that directories of the host are copied to be images. */
  copiesDirectories: boolean;
  onStep: OnStep;
  openBuildBox: OpenBuildBox;
  host: Omit<HostImageOptions, "dir" | "stateDir" | "discard" | "own" | "onStep">;
}

export function createImages(options: ImagesOptions): Images {
  const { dir, stateDir, discard, launcher, own, onStep } = options;
  const host = createHostImage({ ...options.host, dir: join(dir, "host"), stateDir, discard, own, onStep });
  const flights = createSingleFlight<PreparedImage>();
  const tarDir = join(dir, "tar");
  const ociDir = join(dir, "oci");
  const copyDir = join(dir, "copy");
  const views = createUserViews({ launcher, dir: join(dir, "user"), discard });
  const closing = new AbortController();
  const running = new Set<Promise<unknown>>();
  const holds = createHolds("image");
  const store = createImageStore({
    launcher,
    dir: ociDir,
    discard,
    onStep,
    openBox: options.openBuildBox,
    closing: closing.signal,
    async isUsed(digest) {
      const rootfs = ociRootfs(ociDir, digest);
      const used = await options.host.used();
      return used.has(rootfs) || used.has(views.pathOf(rootfs));
    },
    alone: (digest, task) => holds.alone(digest, task),
    forget: (digest) => views.forget(ociRootfs(ociDir, digest)),
  });

  return {
    store: tracked(store),
    hold: (imageId) => holds.hold([imageId]),
    async ensure(reference, { signal } = {}) {
      const wanted = parseReference(reference);
      if (wanted.kind === "host") {
        await host.skeleton();
        return { id: "host", reference, env: {} };
      }
      if (wanted.kind === "path") {
        const isDirectory = (await statFollowed(wanted.path)).isDirectory();
        if (wanted.expect === "tar" && isDirectory) {
          throw new WarrenError("image_invalid", `${wanted.path} is a directory, not a tar file`);
        }
        if ((isDirectory || wanted.expect === "directory") && !options.copiesDirectories) {
          return ensureDirectory(reference, wanted.path, stateDir);
        }
      }
      // One key per thing to fetch; the answer carries each caller's own wording.
      const key = JSON.stringify({ ...wanted, expect: undefined });
      const isCopied =
        wanted.kind === "path" &&
        (wanted.expect === "directory" || (await statFollowed(wanted.path)).isDirectory());
      const image = await flights.run(
        key,
        (own) => {
          if (wanted.kind !== "path") {
            return ensureOci(reference, wanted, { launcher, dir: ociDir, discard, onStep }, own);
          }
          if (isCopied) {
            return ensureCopiedDirectory(
              reference,
              wanted.path,
              stateDir,
              { launcher, dir: copyDir, discard },
              own,
            );
          }
          return ensureTar(reference, wanted.path, { launcher, dir: tarDir, discard, onStep }, own);
        },
        signal,
      );
      return { ...image, reference };
    },
    async lower(id, { asUser, signal }) {
      const lower = await plainLower(id);
      return asUser ? views.of(lower, signal) : lower;
    },
    binds: async (id) => (id === "host" ? host.binds() : []),
    async sweep() {
      for (const parent of [tarDir, ociDir, copyDir]) {
        const names = (await statOrUndefined(parent)) ? await readdir(parent) : [];
        for (const name of names) if (name.startsWith(".new-")) await discard(join(parent, name));
      }
      const used = await options.host.used();
      await views.sweep(used);
      await sweepUnnamed(ociDir, discard, (rootfs) => used.has(rootfs) || used.has(views.pathOf(rootfs)));
      if (!(await statOrUndefined(copyDir))) return;
      // Each change of a directory made another.
      for (const name of await readdir(copyDir)) {
        if (!used.has(join(copyDir, name, "rootfs"))) await discard(join(copyDir, name));
      }
    },
    async close() {
      closing.abort();
      await Promise.allSettled(running);
      await Promise.all([flights.close(), views.close(), host.idle()]);
    },
  };

  /** What is under way when the runtime is closed is waited for. */
  function tracked({ pull, build, ...rest }: ImageStore): ImageStore {
    const track = <T>(task: Promise<T>): Promise<T> => {
      running.add(task);
      const done = () => running.delete(task);
      task.then(done, done);
      return task;
    };
    return { ...rest, pull: (...args) => track(pull(...args)), build: (...args) => track(build(...args)) };
  }

  async function plainLower(id: string): Promise<string> {
    if (id === "host") return host.skeleton();
    if (id.startsWith("dir:")) return resolveDirectory(id.slice("dir:".length), stateDir);
    const path = unpackedPath(id);
    if (path && (await statOrUndefined(path))) return path;
    throw new WarrenError("image_not_found", `the image ${id} is not on this host any more`, {
      hint: "create the sandbox again, so that the image is fetched",
    });
  }

  function unpackedPath(id: string): string | undefined {
    if (/^copy:[0-9a-f]{64}$/.test(id)) return join(copyDir, id.slice("copy:".length), "rootfs");
    if (/^tar:[0-9a-f]{64}$/.test(id)) return join(tarDir, id.slice("tar:".length), "rootfs");
    if (/^sha256:[0-9a-f]{64}$/.test(id)) return ociRootfs(ociDir, id);
    return undefined;
  }
}

/** Unpacked images that a crash left without a name, or that lost their last one while a sandbox stood on them. */
async function sweepUnnamed(
  dir: string,
  discard: (path: string) => Promise<void>,
  isUsed: (rootfs: string) => boolean,
): Promise<void> {
  const named = new Set((await knownNames(dir)).map(({ digest }) => imageDir(dir, digest)));
  for (const name of (await statOrUndefined(dir)) ? await readdir(dir) : []) {
    const path = join(dir, name);
    if (/^[0-9a-f]{64}$/.test(name) && !named.has(path) && !isUsed(join(path, "rootfs"))) await discard(path);
  }
}

async function statFollowed(path: string) {
  try {
    return await stat(path);
  } catch (error) {
    if (isGone(error)) throw missing(path);
    throw error;
  }
}
