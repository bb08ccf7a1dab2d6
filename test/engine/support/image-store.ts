import { createHash } from "node:crypto";
import { chmodSync, copyFileSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as delay } from "node:timers/promises";
import { extract } from "tar-stream";
import { WarrenError } from "../../../src/contracts/errors.ts";
import type { ImageInfo, ImageProgress } from "../../../src/contracts/images.ts";
import type { Runtime } from "../../../src/contracts/runtime.ts";

export interface ImageLab {
  /** The runtime, with a store of images. */
  runtime: Runtime;
  /** Pulls and builds under way, and those that were begun. */
  readonly running: number;
  readonly begun: string[];
}

/**
 * Gives the fake runtime a store: images are directories, a Dockerfile may have `FROM`, `COPY from to` and `RUN ["…"]` with
 * `sleep` (seconds, ended by the signal), `echo` and `false`. Any `registry.test/…` can be pulled, and holds a busybox.
 */
export function withImages(runtime: Runtime, dir: string, { layerMs = 0 } = {}): ImageLab {
  const images = new Map<string, ImageInfo & { path: string }>();
  const madeOf = new Map<string, string>();
  const lab = { running: 0, begun: [] as string[] };
  mkdirSync(dir, { recursive: true });

  const info = ({ path: _, ...image }: ImageInfo & { path: string }): ImageInfo => image;
  const keep = (reference: string, path: string, content: string) => {
    const id = `sha256:${createHash("sha256").update(content).digest("hex")}`;
    const image = {
      reference,
      id,
      runtime: runtime.name,
      path,
      size: content.length,
      created_at: new Date().toISOString(),
    };
    images.set(reference, image);
    return info(image);
  };
  async function counted<T>(what: string, work: () => Promise<T>): Promise<T> {
    lab.running++;
    lab.begun.push(what);
    try {
      return await work();
    } finally {
      lab.running--;
    }
  }
  const ensure: Runtime["images"]["ensure"] = async (reference, options) => {
    if (reference === "host" || reference.startsWith("/"))
      return await runtime.images.ensure(reference, options);
    const image = images.get(reference);
    if (!image)
      throw new WarrenError("image_not_found", `there is no image ${reference}`, { hint: "pull it" });
    return { id: `dir:${image.path}`, reference, env: {} };
  };

  const changed: Runtime = {
    ...runtime,
    capabilities: { ...runtime.capabilities, imageStore: true, images: ["host", "directory", "oci"] },
    images: {
      ensure,
      store: {
        async inspect(reference) {
          const image = images.get(reference);
          return image && info(image);
        },
        async list(prefix) {
          return [...images.values()].filter(({ reference }) => reference.startsWith(prefix)).map(info);
        },
        async remove(reference) {
          const image = images.get(reference);
          if (image && [...madeOf.values()].includes(`dir:${image.path}`)) {
            throw new WarrenError("in_use", `a sandbox is made of ${reference}`, { hint: "remove it first" });
          }
          images.delete(reference);
          if (image) rmSync(image.path, { recursive: true });
        },
        pull: (reference, { signal, onProgress } = {}) =>
          counted(`pull ${reference}`, async () => {
            if (!reference.startsWith("registry.test/")) {
              throw new WarrenError("image_pull_failed", `no registry has ${reference}`);
            }
            const total = 100_000_000;
            for (let done = 0; done <= 20; done++) {
              for (const layer of ["1234567890ab", "ba0987654321"]) {
                const status = done === 20 ? "done" : "downloading";
                onProgress?.({ layer, status, current: (total / 20) * done, total });
              }
              if (layerMs > 0) await delay(layerMs, undefined, signal && { signal });
            }
            const there = images.get(reference);
            if (there) return info(there);
            const path = join(dir, `p${lab.begun.length}`);
            mkdirSync(join(path, "bin"), { recursive: true });
            copyFileSync("/bin/busybox", join(path, "bin/busybox"));
            return keep(reference, path, reference);
          }),
        build: ({ tag, context, dockerfile = "Dockerfile", buildArgs = {}, target, signal, onProgress }) =>
          counted(`build ${tag}`, async () => {
            const files = await unpack(context);
            const script = files.get(dockerfile)?.bytes.toString("utf8");
            if (script === undefined) {
              throw new WarrenError("image_build_failed", `there is no ${dockerfile} in the context`);
            }
            const path = join(dir, `b${lab.begun.length}`);
            const lines = script.split("\n").filter((line) => line !== "");
            for (const [index, line] of lines.entries()) {
              onProgress?.({ line: `STEP ${index + 1}/${lines.length}: ${line}` });
              await step(line, { path, files, buildArgs, signal, onProgress });
            }
            onProgress?.({ line: `target ${target ?? "none"}` });
            return keep(tag, path, `${script}${JSON.stringify(buildArgs)}`);
          }),
      },
    },
    async create(spec, options) {
      await runtime.create(spec, options);
      madeOf.set(spec.id, spec.image.id);
    },
    async remove(id) {
      await runtime.remove(id);
      madeOf.delete(id);
    },
  };
  return Object.assign(lab, { runtime: changed });
}

interface StepContext {
  path: string;
  files: Map<string, { bytes: Buffer; mode: number }>;
  buildArgs: Readonly<Record<string, string>>;
  signal: AbortSignal | undefined;
  onProgress: ((progress: ImageProgress) => void) | undefined;
}

async function step(
  line: string,
  { path, files, buildArgs, signal, onProgress }: StepContext,
): Promise<void> {
  const [word, ...rest] = line.split(" ");
  if (word === "COPY") {
    const [from = "", to = ""] = rest;
    const file = files.get(from);
    if (!file) throw new WarrenError("image_build_failed", `COPY: there is no ${from}`);
    const at = join(path, to);
    mkdirSync(dirname(at), { recursive: true });
    writeFileSync(at, file.bytes);
    chmodSync(at, file.mode);
  }
  if (word !== "RUN") return;
  const argv = (JSON.parse(rest.join(" ")) as string[])
    .flatMap((arg) => (arg.startsWith("echo ") ? ["echo", arg.slice("echo ".length)] : [arg]))
    .map((arg) => arg.replace(/\$\{(\w+)\}/g, (_, name: string) => buildArgs[name] ?? ""));
  const at = argv.findIndex((arg) => ["sleep", "echo", "false"].includes(arg));
  if (argv[at] === "sleep") await delay(Number(argv[at + 1]) * 1000, undefined, signal && { signal });
  if (argv[at] === "echo") onProgress?.({ line: argv.slice(at + 1).join(" ") });
  if (argv[at] === "false") {
    throw new WarrenError("image_build_failed", `the build failed at: ${line}`, { hint: "mend it" });
  }
}

async function unpack(context: AsyncIterable<Uint8Array>): Promise<StepContext["files"]> {
  const files: StepContext["files"] = new Map();
  const entries = extract();
  const fed = pipeline(context, entries as unknown as NodeJS.WritableStream); // a stream of its own kind
  fed.catch(() => {}); // reading the entries fails with it
  for await (const entry of entries) {
    const chunks: Buffer[] = [];
    for await (const chunk of entry) chunks.push(chunk as Buffer);
    const { name, mode = 0o644 } = entry.header;
    files.set(normalize(name), { bytes: Buffer.concat(chunks), mode });
  }
  await fed;
  return files;
}
