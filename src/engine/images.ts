import type { ImagesApi } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";
import {
  BuildImage,
  ImageFilter,
  type ImageInfo,
  type ImageProgress,
  ImageReference,
  PullImage,
} from "../contracts/images.ts";
import type { ImageStore } from "../contracts/runtime.ts";
import { RuntimeChoice } from "../contracts/sandbox.ts";
import { guarded } from "../lib/guarded.ts";
import { parseInput } from "../lib/parse.ts";
import { cancelled, linkSignals, throwIfAborted } from "../lib/signals.ts";
import { createSingleFlight } from "../lib/single-flight.ts";
import { checkedTar } from "../lib/tar-entries.ts";
import { createTurnstile } from "../lib/turnstile.ts";
import { asWarrenError, type Core, refuseWhenClosing } from "./core.ts";
import { createFacet } from "./facets.ts";
import { openReach } from "./open-network.ts";
import { cleanProgress } from "./progress.ts";

export interface Images extends ImagesApi {
  /** Resolves once no pull and no build is under way; closing the engine cancels them. */
  idle(): Promise<void>;
}

type OnProgress = (progress: ImageProgress) => void;

/** Layers whose last state is kept for those who join a pull. */
const MOST_LAYERS = 256;

/** Images of all runtimes. */
export function createImages(core: Core): Images {
  const images = createFacet(core, "image store", (runtime) => runtime.images.store);
  const flights = createSingleFlight<ImageInfo>();
  const audiences = new Map<string, Audience>();
  const running = new Set<Promise<unknown>>();
  const builds = createTurnstile(core.config.maxBuilds);

  return {
    async list(filter = {}) {
      refuseWhenClosing(core);
      const { runtime, prefix = "" } = parseInput(ImageFilter, filter);
      const found = await Promise.all((await images.all(runtime)).map((store) => store.list(prefix)));
      const key = (image: ImageInfo) => `${image.reference}\0${image.runtime}\0${image.id}`;
      return found.flat().sort((a, b) => (key(a) < key(b) ? -1 : 1));
    },
    async get(wanted, options = {}) {
      refuseWhenClosing(core);
      const reference = parseInput(ImageReference, wanted);
      const { store } = await images.of(parseInput(RuntimeChoice, options).runtime);
      return await found(store, reference);
    },
    async pull(request, { onProgress, signal } = {}) {
      refuseWhenClosing(core);
      throwIfAborted(signal);
      const { reference, runtime: wanted } = parseInput(PullImage, request);
      const { runtime, store } = await images.of(wanted);
      const key = `${runtime.name} ${reference}`;
      const audience = audiences.get(key) ?? createAudience(core, () => audiences.delete(key));
      audiences.set(key, audience);
      using _ = audience.join(onProgress);
      try {
        return await flights.run(
          key,
          (own) =>
            tracked(own, `the image ${reference} could not be pulled`, (either) =>
              store.pull(reference, { signal: either, onProgress: audience.tell }),
            ),
          signal,
        );
      } catch (error) {
        throw signal?.aborted ? cancelled(signal) : error;
      }
    },
    async build(request, context, { onProgress, signal } = {}) {
      refuseWhenClosing(core);
      throwIfAborted(signal);
      const {
        tag,
        dockerfile,
        build_args: buildArgs,
        target,
        no_cache: noCache,
        network,
        runtime,
      } = parseInput(BuildImage, request);
      const { store } = await images.of(runtime);
      const audience = createAudience(core);
      using _ = audience.join(onProgress);
      const body = guarded(checkedTar(context, core.config.maxBuildContextBytes));
      try {
        return await tracked(signal, `the image ${tag} could not be built`, async (either) => {
          // Looked at before anything is made of it. Nobody who sends nothing keeps others waiting.
          const first = await beforeAbort(body.bytes.next(), either);
          const build = () =>
            store.build({
              tag,
              context: continued(first, body.bytes),
              signal: either,
              onProgress: audience.tell,
              ...(dockerfile === undefined ? {} : { dockerfile }),
              ...(buildArgs === undefined ? {} : { buildArgs }),
              ...(target === undefined ? {} : { target }),
              ...(noCache === undefined ? {} : { noCache }),
              ...(network === undefined ? {} : { network }),
              ...(network === "open" ? { reach: openReach({}) } : {}),
            });
          return await builds.run(build, either);
        });
      } catch (error) {
        // A build may have done something before the engine closed: nobody is to think that it was never begun.
        if (!signal?.aborted && core.closing.aborted) {
          throw new WarrenError("cancelled", "the engine was closed during the build", { cause: error });
        }
        // What the caller's own bytes failed with is told as it is.
        throw body.failure && !signal?.aborted ? body.failure.error : error;
      } finally {
        // Whoever sends must not wait for a reader that has gone.
        void body.bytes.return(undefined).catch(() => {});
      }
    },
    async remove(wanted, options = {}) {
      refuseWhenClosing(core);
      const reference = parseInput(ImageReference, wanted);
      const { runtime, store } = await images.of(parseInput(RuntimeChoice, options).runtime);
      await core.mutex.run(`image ${runtime.name} ${reference}`, async () => {
        await found(store, reference);
        await store.remove(reference);
      });
    },
    async idle() {
      while (running.size > 0) await Promise.allSettled(running);
    },
  };

  /** Work that the caller, or the engine when it closes, can end. It is waited for: what it had begun is then undone. */
  async function tracked<T>(
    signal: AbortSignal | undefined,
    what: string,
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    using either = linkSignals(signal, core.closing);
    const mine = work(either.signal);
    running.add(mine);
    try {
      return await mine;
    } catch (error) {
      if (either.signal.aborted) throw cancelled(either.signal);
      throw asWarrenError(error, what);
    } finally {
      running.delete(mine);
    }
  }
}

async function found(store: ImageStore, reference: string): Promise<ImageInfo> {
  const image = await store.inspect(reference);
  if (image) return image;
  throw new WarrenError("image_not_found", `there is no image ${JSON.stringify(reference)} here`, {
    hint: `fetch it: warren image pull ${reference}`,
  });
}

interface Audience {
  tell: OnProgress;
  /** Hears what comes, and of each layer how far it is. Leaves when disposed. */
  join(listener: OnProgress | undefined): Disposable;
}

/** Those who hear of one pull or build. `onEmpty` comes when the last has left, and before anybody else joins. */
function createAudience({ log }: Core, onEmpty = () => {}): Audience {
  const listeners = new Set<OnProgress>();
  const layers = new Map<string, ImageProgress>();

  function hand(listener: OnProgress, progress: ImageProgress): void {
    try {
      listener(progress);
    } catch (error) {
      // A listener's bug must not undo the work that it is told of.
      log.error({ err: error }, "a listener of an image's progress failed");
    }
  }

  return {
    tell(progress) {
      for (const told of cleanProgress(progress)) {
        if ("layer" in told && (layers.has(told.layer) || layers.size < MOST_LAYERS)) {
          layers.set(told.layer, told);
        }
        for (const listener of listeners) hand(listener, told);
      }
    },
    join(listener) {
      // A function of its own: two callers may give the same one.
      const mine: OnProgress = (progress) => listener?.(progress);
      for (const progress of layers.values()) hand(mine, progress);
      listeners.add(mine);
      return {
        [Symbol.dispose]() {
          listeners.delete(mine);
          if (listeners.size === 0) onEmpty();
        },
      };
    },
  };
}

async function* continued(
  first: IteratorResult<Uint8Array, void>,
  rest: AsyncGenerator<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  if (first.done) return;
  yield first.value;
  yield* rest;
}

/** The result, or a failure when the signal fires first. */
async function beforeAbort<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  let fail = () => {};
  const aborted = new Promise<never>((_, reject) => {
    fail = () => reject(cancelled(signal));
    signal.addEventListener("abort", fail, { once: true });
  });
  aborted.catch(() => {});
  work.catch(() => {});
  try {
    throwIfAborted(signal);
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener("abort", fail);
  }
}
