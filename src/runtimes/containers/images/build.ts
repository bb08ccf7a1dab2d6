import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { WarrenError } from "../../../contracts/errors.ts";
import type { BuildOptions } from "../../../contracts/runtime.ts";
import { cancelled } from "../../../lib/signals.ts";
import { NO_NETWORK } from "../../common/images/build-hint.ts";
import { ImageList, readAnswer } from "../answers.ts";
import { type ApiClient, EngineRefusal, engineFailure, engineWords } from "../api-client.ts";
import { buildContext, dockerfilePath } from "./build-context.ts";
import { imageId, imagePath, lookup, namesOf } from "./lookup.ts";
import { type Message, readMessages } from "./messages.ts";
import { createOutputLines } from "./output-lines.ts";
import type { RegistryAuth } from "./registry-auth.ts";

/** Of a failed build's output that its error tells. */
const LAST_LINES = 50;
const MAX_TOLD = 16_384;
/** How long an engine may take to end what an aborted build runs. */
const END_TIMEOUT_MS = 30_000;
const POLL_MS = 50;

/** What builds run on. */
export interface BuildService {
  readonly client: ApiClient;
  /** Ends what the build runs, after its connection was closed. */
  end(): Promise<void>;
  close(): Promise<void>;
}

export interface BuildEngine {
  client: ApiClient;
  isPodman: boolean;
  auth: RegistryAuth;
  labels: Record<string, string>;
  rlimits: Readonly<Record<string, number>>;
  /** A service for one build alone. Absent: closing the connection ends it. */
  openService?: (() => Promise<BuildService>) | undefined;
}

/**
 * Builds an image by its complete name, and tells its id. Its commands have the rlimits of sandboxes. An aborted build has ended when this
 * rejects, and leaves nothing.
 * @throws WarrenError `image_build_failed` with the last lines of output, `invalid_request` for its context, `cancelled`
 */
export async function build(name: string, options: BuildOptions, engine: BuildEngine): Promise<string> {
  const { signal } = options;
  const query = buildQuery(name, options, engine);
  const known = await imageIds(engine.client);
  const service = await engine.openService?.();
  const traces = createTraces(engine.isPodman);
  try {
    return await converse(service?.client ?? engine.client, query, options, engine, traces);
  } catch (error) {
    if (!signal?.aborted) throw error;
    await service?.end();
    await containersGone(engine.client, traces.containers());
    await removeSteps(engine.client, traces.images(), known, engine.isPodman);
    throw cancelled(signal);
  } finally {
    await service?.close();
  }
}

function buildQuery(name: string, options: BuildOptions, engine: BuildEngine) {
  const limits = Object.entries(engine.rlimits);
  const isOpen = options.network === "open";
  return {
    t: name,
    dockerfile: dockerfilePath(options.dockerfile),
    rm: true,
    forcerm: true,
    buildargs: JSON.stringify(options.buildArgs ?? {}),
    labels: JSON.stringify(engine.labels),
    nocache: options.noCache ?? false,
    ...(options.target === undefined ? {} : { target: options.target }),
    ...(engine.isPodman
      ? {
          layers: true,
          // Podman builds in the host's network unless it is told both.
          networkmode: isOpen ? "NetworkEnabled" : "NetworkDisabled",
          nsoptions: JSON.stringify([{ Name: "network", Host: false, Path: "" }]),
          ulimits: JSON.stringify(limits.map(([limit, most]) => `${limit}=${most}:${most}`)),
        }
      : {
          networkmode: isOpen ? "default" : "none",
          ulimits: JSON.stringify(limits.map(([Name, most]) => ({ Name, Soft: most, Hard: most }))),
        }),
  };
}

async function converse(
  client: ApiClient,
  query: ReturnType<typeof buildQuery>,
  { context, dockerfile, network, signal, onProgress = () => {} }: BuildOptions,
  { auth }: BuildEngine,
  traces: Traces,
): Promise<string> {
  const last: string[] = [];
  const output = createOutputLines((line) => {
    if (last.push(line) > LAST_LINES) last.shift();
    onProgress({ line });
  });
  const failed = (words: string, cause?: unknown) => {
    output.end();
    const told = last.join("\n").slice(-MAX_TOLD);
    return new WarrenError("image_build_failed", `the build failed: ${engineWords(words)}\n${told}`.trim(), {
      hint: `the lines above are the last that it has said${network === "open" ? "" : `; ${NO_NETWORK}`}`,
      cause,
    });
  };
  let brokenContext: { error: unknown } | undefined;
  let result: string | undefined;
  try {
    const answer = await client.stream({
      method: "POST",
      path: "/build",
      query,
      headers: await auth.forBuild(),
      body: keepingFailure(buildContext(context, dockerfile), (error) => (brokenContext = { error })),
      timeoutMs: 0,
      ...(signal ? { signal } : {}),
    });
    for await (const message of readMessages(answer)) {
      traces.look(message);
      if (message.stream !== undefined) output.push(message.stream);
      if (message.status !== undefined) output.push(`${message.status}\n`);
      if (message.error !== undefined) throw failed(message.error);
      result = message.aux?.ID ?? result;
    }
    output.end();
    // An engine that ends says no error.
    if (result === undefined) throw failed("it ended without a result");
    return imageId(result);
  } catch (error) {
    if (brokenContext) throw brokenContext.error;
    if (error instanceof EngineRefusal) throw failed(error.message, error);
    throw engineFailure(error, "the build's connection to the container engine broke");
  }
}

/** That the caller's bytes break off is told as such, and not as the end of the connection that it leads to. */
async function* keepingFailure(
  source: AsyncIterable<Uint8Array>,
  keep: (error: unknown) => void,
): AsyncGenerator<Uint8Array> {
  try {
    yield* source;
  } catch (error) {
    keep(error);
    throw error;
  }
}

interface Traces {
  look(message: Message): void;
  /** Beginnings of the ids of what the build has said that it made. */
  images(): ReadonlySet<string>;
  containers(): ReadonlySet<string>;
}

/** A build's labels are on its result only: what it makes on the way is known from what it says of it. */
function createTraces(isPodman: boolean): Traces {
  const images = new Set<string>();
  const containers = new Set<string>();
  return {
    look({ stream = "" }) {
      const [, image] =
        (isPodman ? /^--> ([0-9a-f]{11,12})\n?$/ : /^ ---> ([0-9a-f]{12})\n?$/).exec(stream) ?? [];
      const [, container] = isPodman ? [] : (/^ ---> Running in ([0-9a-f]{12})\n?$/.exec(stream) ?? []);
      if (image !== undefined) images.add(image);
      if (container !== undefined) containers.add(container);
    },
    images: () => images,
    containers: () => containers,
  };
}

async function imageIds(client: ApiClient): Promise<ReadonlySet<string>> {
  return new Set((await listImages(client)).map(({ Id }) => imageId(Id)));
}

async function listImages(client: ApiClient): Promise<ImageList> {
  return readAnswer(ImageList, await client.json({ path: "/images/json", query: { all: true } }));
}

/** Docker removes the containers of a build whose connection is closed, in its own time. */
async function containersGone(client: ApiClient, ids: ReadonlySet<string>): Promise<void> {
  const deadline = performance.now() + END_TIMEOUT_MS;
  for (const id of ids) {
    while (performance.now() < deadline) {
      const gone = await client.json({ path: `/containers/${id}/json` }).then(
        () => false,
        (error: unknown) => error instanceof EngineRefusal && error.status === 404,
      );
      if (gone) break;
      await sleep(POLL_MS);
    }
  }
}

/**
 * Removes what the steps of an aborted build have made: what was not there before, has no name, and is said by the build to be a
 * step's result or was made of one. What a command prints can name others, but none that came after the build began and
 * that it can know of.
 */
async function removeSteps(
  client: ApiClient,
  said: ReadonlySet<string>,
  known: ReadonlySet<string>,
  isPodman: boolean,
): Promise<void> {
  const news = (await listImages(client)).filter(
    (image) => !known.has(imageId(image.Id)) && namesOf(image).length === 0,
  );
  const ours = new Map<string, string>();
  for (let before = -1; before !== ours.size; ) {
    before = ours.size;
    for (const { Id, ParentId } of news) {
      const id = imageId(Id);
      const parent = ParentId ? imageId(ParentId) : "";
      const isSaid = [...said].some((start) => id.startsWith(`sha256:${start}`));
      if (isSaid || ours.has(parent)) ours.set(id, parent);
    }
  }
  const bases = new Set([...ours.values()].filter((parent) => parent !== "" && !ours.has(parent)));
  await using _ = isPodman ? await keepNamed(client, bases) : undefined;
  while (ours.size > 0) {
    const parents = new Set(ours.values());
    const leaves = [...ours.keys()].filter((id) => !parents.has(id));
    for (const id of leaves.length > 0 ? leaves : [...ours.keys()]) {
      ours.delete(id);
      // Never forced: what somebody has made of it meanwhile stays.
      await client
        .json({ method: "DELETE", path: imagePath(id), query: { noprune: true } })
        .catch((error: unknown) => {
          if (!(error instanceof EngineRefusal)) throw error;
        });
    }
  }
}

/** Podman removes an image without a name together with its last child, whatever it is asked. */
async function keepNamed(client: ApiClient, ids: ReadonlySet<string>): Promise<AsyncDisposable> {
  const name = { repo: "localhost/warren-kept", tag: randomBytes(8).toString("hex") };
  const tagged: string[] = [];
  for (const id of ids) {
    const image = await lookup(client, id);
    if (!image || namesOf(image).length > 0) continue;
    const tag = `${name.tag}-${tagged.push(id)}`;
    await client.json({ method: "POST", path: imagePath(id, "/tag"), query: { ...name, tag } });
  }
  return {
    async [Symbol.asyncDispose]() {
      for (const [index, id] of tagged.entries()) {
        const query = { ...name, tag: `${name.tag}-${index + 1}` };
        await client.json({ method: "POST", path: `/libpod${imagePath(id, "/untag")}`, query });
      }
    },
  };
}
