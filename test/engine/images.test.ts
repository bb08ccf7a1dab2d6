import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { ImageProgress } from "../../src/contracts/images.ts";
import type { ImageStore, Runtime } from "../../src/contracts/runtime.ts";
import type { EngineConfig } from "../../src/engine/config.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { createDeferred } from "../../src/lib/deferred.ts";
import { piecesOf, tarOf } from "../../src/testing/tar.ts";
import { eventually } from "../../src/testing/wait.ts";
import { stateDir, testEngine } from "./support/engine.ts";
import { withImages } from "./support/image-store.ts";

const PULLED = "registry.test/tiny:1";

/** An engine whose images come layer by layer; each is `layerMs` long in coming. */
async function engineWithImages(
  layerMs = 0,
  change = (runtime: Runtime) => runtime,
  config: Partial<EngineConfig> = {},
) {
  const { path } = stateDir();
  let lab: ReturnType<typeof withImages> | undefined;
  const made = await testEngine(path, {
    config: { maxBuildContextBytes: 3_000_000, ...config },
    change: (runtime) => {
      lab = withImages(runtime, join(path, "images"), { layerMs });
      return change(lab.runtime);
    },
  });
  if (!lab) throw new Error("there is a runtime");
  return { engine: made.engine, lab, [Symbol.asyncDispose]: () => made[Symbol.asyncDispose]() };
}

/** A build that tells `said` and then waits for its end. */
async function hangingBuild(engine: Engine, options: { signal?: AbortSignal } = {}) {
  const context = await tarOf({ Dockerfile: 'RUN ["echo", "begun"]\nRUN ["sleep", "600"]\n' });
  const begun = createDeferred<void>();
  const building = engine.images.build({ tag: "hangs" }, piecesOf(context), {
    ...options,
    onProgress: (progress) => {
      if ("line" in progress && progress.line === "begun") begun.resolve();
    },
  });
  building.catch(() => {});
  await begun.promise;
  return { building };
}

describe("equal pulls", () => {
  it("are one, whose layers each caller hears of, those who come later too", async () => {
    await using made = await engineWithImages(20);
    const { engine, lab } = made;
    const early: ImageProgress[] = [];
    const first = engine.images.pull({ reference: PULLED }, { onProgress: (told) => early.push(told) });
    await eventually("progress", () => early.length > 6);
    const late: ImageProgress[] = [];
    const second = engine.images.pull({ reference: PULLED }, { onProgress: (told) => late.push(told) });
    await eventually("the layers so far", () => late.length >= 2);
    expect(await second).toEqual(await first);
    expect(lab.begun).toEqual([`pull ${PULLED}`]);
    expect(late.at(-1)).toMatchObject({ status: "done" });
    const count = early.length;
    await engine.images.pull({ reference: PULLED });
    expect(lab.begun).toHaveLength(2);
    expect(early).toHaveLength(count);
  });

  it("go on as long as somebody waits, and end with the last who gives up", async () => {
    await using made = await engineWithImages(50);
    const { engine, lab } = made;
    const stops = [new AbortController(), new AbortController()] as const;
    const calls = stops.map(({ signal }) => engine.images.pull({ reference: PULLED }, { signal }));
    for (const call of calls) call.catch(() => {});
    await eventually("the pull", () => lab.running === 1);
    stops[0].abort();
    await expect(calls[0]).rejects.toMatchObject({ code: "cancelled" });
    expect(lab.running).toBe(1);
    stops[1].abort();
    await expect(calls[1]).rejects.toMatchObject({ code: "cancelled" });
    await eventually("its end", () => lab.running === 0);
    expect(await engine.images.list()).toEqual([]);
    // Whoever comes then has a pull of their own.
    expect(await engine.images.pull({ reference: PULLED })).toMatchObject({ reference: PULLED });
  });
});

describe("closing the engine", () => {
  it("ends pulls and builds, and says of no build that it was never begun", async () => {
    const made = await engineWithImages(50);
    const { engine, lab } = made;
    const { building } = await hangingBuild(engine);
    const pulling = engine.images.pull({ reference: PULLED });
    pulling.catch(() => {});
    await eventually("both", () => lab.running === 2);
    await engine.close();
    expect(lab.running).toBe(0);
    await expect(pulling).rejects.toMatchObject({ code: "shutting_down" });
    await expect(building).rejects.toMatchObject({ code: "cancelled" });
    for (const call of [
      () => engine.images.list(),
      () => engine.images.get("x"),
      () => engine.images.pull({ reference: "x" }),
      () => engine.images.build({ tag: "x" }, piecesOf(Buffer.alloc(1024))),
      () => engine.images.remove("x"),
    ]) {
      await expect(call()).rejects.toMatchObject({ code: "shutting_down" });
    }
  });

  it("waits for nobody who sends no context", async () => {
    const made = await engineWithImages();
    const left = createDeferred<void>();
    async function* silent(): AsyncGenerator<Uint8Array> {
      try {
        await left.promise;
        yield Buffer.alloc(512);
      } finally {
        left.resolve();
      }
    }
    const building = made.engine.images.build({ tag: "x" }, silent());
    building.catch(() => {});
    await made.engine.close();
    await expect(building).rejects.toMatchObject({ code: "cancelled" });
    expect(made.lab.begun).toEqual([]);
    left.resolve();
  });
});

describe("a build", () => {
  it("waits for its turn behind as many as may run, and leaves the line when it is given up", async () => {
    await using made = await engineWithImages(1, undefined, { maxBuilds: 1 });
    const { engine, lab } = made;
    const [stopFirst, stopSecond] = [new AbortController(), new AbortController()];
    const { building } = await hangingBuild(engine, { signal: stopFirst.signal });
    const context = await tarOf({ Dockerfile: "FROM scratch\n" });
    const given = engine.images.build({ tag: "given" }, piecesOf(context), { signal: stopSecond.signal });
    const next = engine.images.build({ tag: "next" }, piecesOf(context));
    stopSecond.abort();
    await expect(given).rejects.toMatchObject({ code: "cancelled" });
    expect(lab.begun).toEqual(["build hangs"]);
    stopFirst.abort();
    await expect(building).rejects.toMatchObject({ code: "cancelled" });
    await next;
    expect(lab.begun).toEqual(["build hangs", "build next"]);
  });

  it("reads its context as fast as it is taken, up to its limit", async () => {
    await using made = await engineWithImages();
    const { engine, lab } = made;
    const fits = await tarOf({ Dockerfile: "FROM scratch\n", big: "x".repeat(2_000_000) });
    await engine.images.build({ tag: "fits" }, piecesOf(fits));
    let sent = 0;
    let ended = false;
    async function* endless(): AsyncGenerator<Uint8Array> {
      try {
        yield fits.subarray(0, 2048);
        for (;;) {
          sent += 65_536;
          yield Buffer.alloc(65_536);
        }
      } finally {
        ended = true;
      }
    }
    await expect(engine.images.build({ tag: "endless" }, endless())).rejects.toMatchObject({
      code: "too_large",
    });
    expect(sent).toBeLessThan(3_200_000);
    expect(ended).toBe(true);
    expect((await engine.images.list()).map(({ reference }) => reference)).toEqual(["fits"]);
    expect(lab.running).toBe(0);
  });

  it("lets go of a context that its runtime does not read", async () => {
    const failing = (runtime: Runtime): Runtime => ({
      ...runtime,
      images: {
        ...runtime.images,
        store: {
          ...(runtime.images.store as ImageStore),
          build: async () => {
            throw new WarrenError("image_build_failed", "there is no builder");
          },
        },
      },
    });
    await using made = await engineWithImages(0, failing);
    let ended = false;
    async function* context() {
      try {
        for (;;) yield await tarOf({ Dockerfile: "x".repeat(100_000) });
      } finally {
        ended = true;
      }
    }
    const building = made.engine.images.build({ tag: "t" }, context());
    await expect(building).rejects.toMatchObject({ code: "image_build_failed" });
    await eventually("the end of the context", () => ended);
  });
});

it("cleans what a build says, and outlives a listener that fails", async () => {
  const said = [
    "plain\ttab",
    "\u001b[31mred\u001b[0m \u001b]0;title\u0007end",
    "10%\r20%\r100%\r",
    "one\ntwo",
    "nul\0 bell\u0007 c1\u009b2J",
    "x".repeat(100_000),
  ];
  const talking = (runtime: Runtime): Runtime => ({
    ...runtime,
    images: {
      ...runtime.images,
      store: {
        ...(runtime.images.store as ImageStore),
        pull: async (reference, { onProgress } = {}) => {
          for (const line of said) onProgress?.({ line });
          onProgress?.({ layer: "\u001b[2Ja", status: "s\0", current: -1, total: Number.NaN });
          return { reference, id: "i", runtime: "fake" };
        },
      },
    },
  });
  await using made = await engineWithImages(0, talking);
  const heard: ImageProgress[] = [];
  await made.engine.images.pull(
    { reference: PULLED },
    {
      onProgress: (told) => {
        heard.push(told);
        throw new Error("a bug of the listener");
      },
    },
  );
  expect(heard.slice(0, 6)).toEqual(
    ["plain\ttab", "red end", "100%", "one", "two", "nul bell c1"].map((line) => ({ line })),
  );
  expect(heard[6]).toEqual({ line: "x".repeat(4096) });
  expect(heard[7]).toEqual({ layer: "a", status: "s" });
});

it("looks again for an image that was removed while a sandbox was made of it", async () => {
  let vanish = 1;
  const change = (runtime: Runtime): Runtime => ({
    ...runtime,
    async create(spec, options) {
      if (spec.image.reference === PULLED && vanish-- > 0) {
        throw new WarrenError("image_not_found", "it was removed just now");
      }
      await runtime.create(spec, options);
    },
  });
  await using made = await engineWithImages(0, change);
  const { engine } = made;
  await engine.images.pull({ reference: PULLED });
  const { id } = await engine.create({ image: PULLED });
  await engine.remove(id);
  vanish = 2;
  await expect(engine.create({ image: PULLED })).rejects.toMatchObject({ code: "image_not_found" });
  expect(await engine.list()).toEqual([]);
});
