import { realpathSync } from "node:fs";
import { relative, resolve } from "node:path";
import type { Command } from "commander";
import { packDirectory } from "../../client/node/index.ts";
import { WarrenError } from "../../contracts/errors.ts";
import type { BuildImage, BuildNetwork, ImageInfo } from "../../contracts/images.ts";
import { formatBytes } from "../../lib/units.ts";
import { forEachNamed } from "../each.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { showProgress } from "../image-progress.ts";
import { interruptible } from "../interruptible.ts";
import { collect, parseEnvironment } from "../options.ts";
import { print } from "../output.ts";
import { age, json, safe, table } from "../render.ts";
import { UsageError } from "../report.ts";

interface RuntimeOption {
  runtime?: string;
}

interface BuildOptions extends RuntimeOption {
  tag: string;
  file?: string;
  buildArg?: string[];
  target?: string;
  cache: boolean;
  network?: string;
  quiet?: boolean;
  json?: boolean;
}

const RUNTIME = ["--runtime <name>", "runtime driver (default: the engine's)"] as const;

export function define(command: Command, context: CliContext): void {
  command.helpCommand(false);
  definePull(command, context);
  defineBuild(command, context);
  defineLs(command, context);
  defineInspect(command, context);
  defineRm(command, context);
}

function definePull(parent: Command, context: CliContext): void {
  const command = parent
    .command("pull")
    .description("fetch an image, or what is newer of it")
    .argument("<reference>", "such as debian:12 or registry.example/team/tools:1")
    .option(...RUNTIME)
    .option("-q, --quiet", "show no progress")
    .option("--json", "print the image as JSON");
  addGlobalOptions(command).action(
    async (reference: string, options: RuntimeOption & { quiet?: boolean; json?: boolean }) => {
      const api = await connectApi(command, context);
      const image = await interruptible(async (signal) => {
        await using display = showProgress(options);
        const onProgress = display.show;
        return await api.images.pull({ reference, ...runtimeOf(options) }, { signal, onProgress });
      });
      if (image) await print(options.json ? json(image) : safe(image.reference));
    },
  );
}

function defineBuild(parent: Command, context: CliContext): void {
  const command = parent
    .command("build")
    .description("build an image of a directory and print its id")
    .argument(
      "<context>",
      "directory with all that the build may read, or `-` for an uncompressed tar on stdin",
    )
    .requiredOption("-t, --tag <reference>", "name of the result, such as my/tools:1")
    .option(
      "-f, --file <path>",
      "Dockerfile, which lies in the context (default: its Dockerfile or Containerfile)",
    )
    .option("--build-arg <NAME=value>", "build argument; NAME alone passes on yours (repeatable)", collect)
    .option("--target <stage>", "stage to stop at")
    .option("--no-cache", "do every step again")
    .option("--network <mode>", "what its commands reach: none, or open (default: none)")
    .option(...RUNTIME)
    .option("-q, --quiet", "show no progress")
    .option("--json", "print the image as JSON")
    .addHelpText(
      "after",
      "\nWhat .dockerignore names is not sent; a Dockerfile's own NAME.dockerignore takes its place. Links are sent as links.",
    );
  addGlobalOptions(command).action(async (from: string, options: BuildOptions) => {
    const request = buildRequest(from, options);
    const packing = request.dockerfile === undefined ? {} : { dockerfile: request.dockerfile };
    const api = await connectApi(command, context);
    const image = await interruptible(async (signal) => {
      await using display = showProgress(options);
      const bytes = from === "-" ? process.stdin : packDirectory(from, packing);
      return await api.images.build(request, bytes, { signal, onProgress: display.show });
    });
    if (image) await print(options.json ? json(image) : safe(image.id));
  });
}

function buildRequest(from: string, options: BuildOptions): BuildImage {
  const { tag, file, buildArg = [], target, cache, network } = options;
  return {
    tag,
    ...(file === undefined ? {} : { dockerfile: from === "-" ? file : insideOf(from, file) }),
    ...(buildArg.length === 0 ? {} : { build_args: parseEnvironment(buildArg) }),
    ...(target === undefined ? {} : { target }),
    ...(cache ? {} : { no_cache: true }),
    ...(network === undefined ? {} : { network: buildNetwork(network) }),
    ...runtimeOf(options),
  };
}

function buildNetwork(word: string): BuildNetwork {
  if (word === "none" || word === "open") return word;
  throw new UsageError(`--network ${word}: the network of a build is none or open`);
}

/** The path of a file, which is named from where we are, as seen from the directory that it lies in. */
function insideOf(directory: string, file: string): string {
  const path = relative(realpathSync(directory), realpathSync(resolve(file)));
  if (!path.startsWith("../")) return path;
  throw new UsageError(`${file} is not in ${directory}`, "a Dockerfile lies in the context of its build");
}

function defineLs(parent: Command, context: CliContext): void {
  const command = parent
    .command("ls")
    .description("list images")
    .argument("[prefix]", "only those whose reference begins so")
    .option("--runtime <name>", "only those of this runtime (default: of all that keep images)")
    .option("-q, --quiet", "only references")
    .option("--json", "print a JSON array");
  addGlobalOptions(command).action(
    async (prefix: string | undefined, options: RuntimeOption & { quiet?: boolean; json?: boolean }) => {
      const api = await connectApi(command, context);
      const images = await api.images.list({
        ...(prefix === undefined ? {} : { prefix }),
        ...runtimeOf(options),
      });
      if (options.json) await print(json(images));
      else if (!options.quiet) await print(imageTable(images, Date.now()));
      else if (images.length > 0) await print(images.map(({ reference }) => safe(reference)).join("\n"));
    },
  );
}

function defineInspect(parent: Command, context: CliContext): void {
  const command = parent
    .command("inspect")
    .description("print all that is known of an image, as JSON")
    .argument("<reference>")
    .option(...RUNTIME)
    .option("--json", "JSON; that is the only format");
  addGlobalOptions(command).action(async (reference: string, options: RuntimeOption) => {
    const api = await connectApi(command, context);
    await print(json(await api.images.get(reference, runtimeOf(options))));
  });
}

function imageTable(images: readonly ImageInfo[], now: number): string {
  return table(
    ["REFERENCE", "ID", "RUNTIME", "SIZE", "AGE"],
    images.map(({ reference, id, runtime, size, created_at }) => [
      reference,
      id.replace(/^sha256:/, "").slice(0, 12),
      runtime,
      size === undefined ? "-" : formatBytes(size),
      age(created_at ?? "", now),
    ]),
  );
}

function defineRm(parent: Command, context: CliContext): void {
  const command = parent
    .command("rm")
    .description("remove images")
    .argument("<reference...>", "images that no sandbox is made of")
    .option(...RUNTIME)
    .option("-f, --force", "an image that does not exist is success");
  addGlobalOptions(command).action(
    async (references: string[], options: RuntimeOption & { force?: boolean }) => {
      const api = await connectApi(command, context);
      await forEachNamed(references, async (reference) => {
        try {
          await api.images.remove(reference, runtimeOf(options));
        } catch (error) {
          const isGone = error instanceof WarrenError && error.code === "image_not_found";
          if (!(isGone && options.force)) throw error;
        }
        return safe(reference);
      });
    },
  );
}

function runtimeOf({ runtime }: RuntimeOption): RuntimeOption {
  return runtime === undefined ? {} : { runtime };
}
