import { createHash, randomBytes } from "node:crypto";
import { chmod, mkdir, open, readdir, rename, stat } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { WarrenError } from "../../../contracts/errors.ts";
import type { PreparedImage, ProgressOptions } from "../../../contracts/runtime.ts";
import type { OnStep } from "../../../contracts/steps.ts";
import { readJson, statOrUndefined, writeAtomically } from "../../../lib/files.ts";
import { lastWords } from "../../../lib/last-words.ts";
import { withDiskGuard } from "../../common/images/disk-guard.ts";
import { pullError } from "../../common/images/pull-error.ts";
import type { ImageReference } from "../../common/images/reference.ts";
import type { Launcher } from "../launcher-client.ts";
import { needProgram } from "../programs.ts";
import { treeSize } from "../tree-size.ts";

/** Large images over slow lines. */
const PULL_TIMEOUT_MS = 3_600_000;
const UNPACK_CHMOD_MS = 60_000;
/** How often blobs are looked for that have come. */
const LOOK_MS = 200;
/** Most bytes of an index, a manifest or a configuration. Registries refuse manifests above 4 MiB. */
const MAX_DOCUMENT_BYTES = 4 << 20;

/** What the tools may see of our environment: where credentials, proxies and certificates are. */
const passedEnv = [
  "HOME",
  "XDG_RUNTIME_DIR",
  "REGISTRY_AUTH_FILE",
  "DOCKER_CONFIG",
  "HTTP_PROXY",
  "HTTPS_PROXY",
  "NO_PROXY",
  "http_proxy",
  "https_proxy",
  "no_proxy",
  "SSL_CERT_FILE",
  "SSL_CERT_DIR",
];

export interface OciImagesOptions {
  launcher: Launcher;
  /** Holds `refs/` and one directory per manifest digest. */
  dir: string;
  discard(path: string): Promise<void>;
  onStep: OnStep;
  onProgress?: ProgressOptions["onProgress"] | undefined;
}

type PullReference = Extract<ImageReference, { kind: "registry" | "layout" }>;

const Digest = z.string().regex(/^sha256:[0-9a-f]{64}$/);
const Index = z.object({
  manifests: z
    .array(z.object({ digest: Digest }))
    .min(1)
    .max(1000),
});
const Manifest = z.object({ config: z.object({ digest: Digest }) });
const Text = z.string().max(131_072);
/** The image configuration, as far as it concerns us. Go writes empty lists as null. */
const Config = z.object({
  created: z.iso.datetime({ offset: true }).nullish().catch(undefined),
  config: z
    .object({
      Env: z.array(Text).max(4096).nullish(),
      WorkingDir: Text.nullish(),
      User: Text.nullish(),
      Entrypoint: z.array(Text).max(4096).nullish(),
      Cmd: z.array(Text).max(4096).nullish(),
    })
    .nullish(),
});
const StoredReference = z.object({ reference: z.string(), digest: Digest });
const StoredImage = z.object({
  env: z.record(z.string(), z.string()),
  workdir: z.string().optional(),
  user: z.string().optional(),
  cmd: z.array(z.string()).optional(),
  // Images of before there was a store of them have none of these.
  configDigest: z.string().optional(),
  created: z.string().optional(),
  /** Bytes on disk. */
  size: z.number().optional(),
});

/** Where an image comes from, and the name that it is known by afterwards. */
export interface OciSource {
  /** `docker://<canonical name>`, or `oci:<path>:<tag>`. */
  name: string;
  /** What skopeo copies from; default: by its name. */
  from?: string;
  /** Without TLS. */
  isPlain: boolean;
  /** A file that the image's directory gets, since its layers are nowhere else. */
  archive?: string;
}

export function sourceOf(wanted: PullReference): OciSource {
  if (wanted.kind === "registry") return { name: `docker://${wanted.name}`, isPlain: wanted.insecure };
  return { name: `oci:${wanted.path}:${wanted.tag}`, isPlain: false };
}

/** Kept beside an image that was built here: an OCI archive of it. */
export const ARCHIVE = "image.tar";

/**
 * Pulls an image with skopeo and unpacks it with umoci, once per manifest digest. A tag that was pulled or built before is used
 * again without asking the registry.
 * @throws WarrenError `image_not_found`, `image_pull_failed`, `image_invalid`, `no_space`, `unsupported`
 */
export async function ensureOci(
  reference: string,
  wanted: PullReference,
  options: OciImagesOptions,
  signal: AbortSignal,
): Promise<PreparedImage> {
  const known =
    wanted.kind === "registry" ? await knownDigest(options.dir, sourceOf(wanted).name) : undefined;
  const stored = known === undefined ? undefined : await storedImage(reference, known, options.dir);
  return stored ?? (await fetchOci(reference, sourceOf(wanted), options, signal));
}

/** Copies an image here, whether its name is known or not, and unpacks it unless that manifest is here. Throws as `ensureOci`. */
export async function fetchOci(
  reference: string,
  source: OciSource,
  options: OciImagesOptions,
  signal: AbortSignal,
): Promise<PreparedImage> {
  const skopeo = await needProgram("skopeo", "pulling an image");
  const umoci = await needProgram("umoci", "unpacking an image");
  await mkdir(join(options.dir, "refs"), { recursive: true, mode: 0o700 });
  const temporary = join(options.dir, `.new-${randomBytes(8).toString("hex")}`);
  await mkdir(temporary, { mode: 0o700 });
  options.onStep("image.oci-begun");
  try {
    return await withDiskGuard(options.dir, signal, async (guarded) => {
      const pull = { ...options, signal: guarded, temporary };
      const layout = join(temporary, "layout");
      await tellingBlobs(layout, options.onProgress, () =>
        skopeoCopy(skopeo, source, `oci:${layout}:image`, pull),
      );
      options.onStep("image.oci-copied");
      const image = await describe(layout);
      const done = await storedImage(reference, image.digest, options.dir);
      if (!done) {
        options.onProgress?.({ line: `unpacking ${reference}` });
        await unpack(umoci, image, pull);
      }
      if (source.archive) await rename(source.archive, join(imageDir(options.dir, image.digest), ARCHIVE));
      const record = { reference: source.name, digest: image.digest };
      await writeAtomically(referenceFile(options.dir, source.name), JSON.stringify(record));
      options.onStep("image.oci-named");
      return done ?? { ...image.defaults, id: image.digest, reference };
    });
  } finally {
    await options.discard(temporary);
  }
}

/** Which manifest a name (of an `OciSource`) stands for here. */
export async function knownDigest(dir: string, name: string): Promise<string | undefined> {
  return (await readJson(referenceFile(dir, name), StoredReference))?.digest;
}

/** All names that are known here. */
export async function knownNames(dir: string): Promise<{ name: string; digest: string }[]> {
  const refs = join(dir, "refs");
  if (!(await statOrUndefined(refs))) return [];
  const records = await Promise.all(
    (await readdir(refs))
      .filter((file) => file.endsWith(".json"))
      .map((file) => readJson(join(refs, file), StoredReference)),
  );
  return records.flatMap((record) => (record ? [{ name: record.reference, digest: record.digest }] : []));
}

export function referenceFile(dir: string, name: string): string {
  return join(dir, "refs", `${createHash("sha256").update(name).digest("hex")}.json`);
}

export function imageDir(dir: string, digest: string): string {
  return join(dir, digest.replace("sha256:", ""));
}

/** What is known of an unpacked image beside what sandboxes need. */
export async function imageFacts(
  dir: string,
  digest: string,
): Promise<Pick<z.output<typeof StoredImage>, "configDigest" | "created" | "size"> | undefined> {
  if (!(await statOrUndefined(ociRootfs(dir, digest)))) return undefined;
  return await readJson(join(imageDir(dir, digest), "image.json"), StoredImage);
}

/** Directory of an unpacked image's root filesystem. */
export function ociRootfs(dir: string, digest: string): string {
  return join(imageDir(dir, digest), "rootfs");
}

async function storedImage(
  reference: string,
  digest: string,
  dir: string,
): Promise<PreparedImage | undefined> {
  if (!(await statOrUndefined(ociRootfs(dir, digest)))) return undefined;
  const stored = await readJson(join(imageDir(dir, digest), "image.json"), StoredImage);
  if (!stored) return undefined;
  const { configDigest: _, created: __, size: ___, ...defaults } = stored;
  return withoutUndefined({ ...defaults, id: digest, reference }) as PreparedImage;
}

interface Pull extends Pick<OciImagesOptions, "launcher"> {
  signal: AbortSignal;
  temporary: string;
}

/** Copies an image with skopeo. Credentials are found where skopeo looks for them, and are in no argument. */
export async function skopeoCopy(
  skopeo: string,
  { name, from = name, isPlain }: OciSource,
  to: string,
  pull: Pull,
): Promise<void> {
  const result = await pull.launcher.run({
    argv: [
      skopeo,
      ...(await policyArgs(pull.temporary)),
      "--override-os=linux",
      "copy",
      "--quiet",
      ...(isPlain ? ["--src-tls-verify=false"] : []),
      from,
      to,
    ],
    env: toolEnv(pull.temporary),
    timeoutMs: PULL_TIMEOUT_MS,
    signal: pull.signal,
  });
  if (result.timedOut) throw new WarrenError("image_pull_failed", `pulling ${name} took too long`);
  if (result.code !== 0) throw pullError(name, lastWords(result.output), "skopeo login");
}

/** Tells each blob of a layout when it is there: skopeo says nothing of bytes unless it has a terminal. */
async function tellingBlobs(
  layout: string,
  onProgress: ProgressOptions["onProgress"],
  task: () => Promise<void>,
): Promise<void> {
  if (!onProgress) return await task();
  const told = new Set<string>();
  const dir = join(layout, "blobs", "sha256");
  const look = async () => {
    for (const name of (await readdir(dir).catch(() => [])).filter((blob) => !told.has(blob))) {
      told.add(name);
      const { size } = await stat(join(dir, name));
      onProgress({ layer: name.slice(0, 12), status: "copied", current: size, total: size });
    }
  };
  const timer = setInterval(() => void look().catch(() => {}), LOOK_MS);
  try {
    await task();
    await look();
  } finally {
    clearInterval(timer);
  }
}

/** The operator's signature policy where there is one; skopeo works with none at all only when it is told so. */
async function policyArgs(dir: string): Promise<string[]> {
  for (const path of ["/etc/containers/policy.json", "/usr/share/containers/policy.json"]) {
    if (await statOrUndefined(path)) return ["--policy", path];
  }
  const path = join(dir, "policy.json");
  await writeAtomically(path, JSON.stringify({ default: [{ type: "insecureAcceptAnything" }] }));
  return ["--policy", path];
}

function toolEnv(temporary: string): Record<string, string> {
  const env: Record<string, string> = { PATH: "/usr/local/bin:/usr/bin:/bin", TMPDIR: temporary };
  for (const name of passedEnv) {
    const value = process.env[name];
    if (value !== undefined) env[name] = value;
  }
  return env;
}

interface Description {
  digest: string;
  configDigest: string;
  created: string | undefined;
  defaults: Omit<PreparedImage, "id" | "reference">;
}

async function describe(layout: string): Promise<Description> {
  const blob = (digest: string) => join(layout, "blobs", "sha256", digest.replace("sha256:", ""));
  const index = await readDocument(join(layout, "index.json"), Index);
  const digest = index.manifests[0]?.digest as string;
  const manifest = await readDocument(blob(digest), Manifest);
  const { config, created } = await readDocument(blob(manifest.config.digest), Config);
  const env: Record<string, string> = {};
  for (const entry of config?.Env ?? []) {
    const at = entry.indexOf("=");
    if (at > 0 && !entry.includes("\0")) env[entry.slice(0, at)] = entry.slice(at + 1);
  }
  const cmd = [...(config?.Entrypoint ?? []), ...(config?.Cmd ?? [])];
  const isSafe = (text: string) => !text.includes("\0");
  return {
    digest,
    configDigest: manifest.config.digest,
    created: created ?? undefined,
    defaults: withoutUndefined({
      env,
      workdir:
        config?.WorkingDir?.startsWith("/") && isSafe(config.WorkingDir) ? config.WorkingDir : undefined,
      user: config?.User && isSafe(config.User) ? config.User : undefined,
      cmd: cmd.length > 0 && cmd.every(isSafe) ? cmd : undefined,
    }) as Description["defaults"],
  };
}

async function unpack(umoci: string, image: Description, pull: Pull & OciImagesOptions): Promise<void> {
  const target = join(pull.temporary, "image");
  await mkdir(target, { mode: 0o700 });
  const result = await pull.launcher.run({
    argv: [
      umoci,
      "raw",
      "unpack",
      "--image",
      `${join(pull.temporary, "layout")}:image`,
      join(target, "rootfs"),
    ],
    as: "unpacker",
    env: toolEnv(pull.temporary),
    timeoutMs: PULL_TIMEOUT_MS,
    signal: pull.signal,
  });
  if (result.timedOut) throw new WarrenError("image_invalid", "unpacking the image took too long");
  if (result.code !== 0) {
    throw new WarrenError("image_invalid", `the image could not be unpacked: ${lastWords(result.output)}`);
  }
  // An image whose layers don't list the root directory itself gets a mode that our umask decides.
  const root = join(target, "rootfs");
  await chmod(root, 0o755).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPERM") throw error;
    // An ordinary user's belongs to a subordinate id by now.
    const argv = [await needProgram("chmod", "unpacking an image"), "0755", root];
    const { code, output } = await pull.launcher.run({ argv, as: "unpacker", timeoutMs: UNPACK_CHMOD_MS });
    if (code !== 0) throw new WarrenError("image_invalid", `the image can't be opened: ${lastWords(output)}`);
  });
  const { defaults, configDigest, created } = image;
  const size = await treeSize(pull.launcher, root);
  await writeAtomically(
    join(target, "image.json"),
    JSON.stringify({ ...defaults, configDigest, created, size }),
  );
  pull.onStep("image.oci-unpacked");
  await rename(target, imageDir(pull.dir, image.digest)).catch((error: NodeJS.ErrnoException) => {
    // Another reference to the same image was faster; what we have goes with the temporary directory.
    if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
  });
  pull.onStep("image.oci-made");
}

async function readDocument<S extends z.ZodType>(path: string, schema: S): Promise<z.output<S>> {
  const file = await open(path, "r");
  try {
    if ((await file.stat()).size > MAX_DOCUMENT_BYTES) {
      throw new WarrenError("image_invalid", "the image's manifest or configuration is too large");
    }
    const parsed = schema.safeParse(JSON.parse(await file.readFile("utf8")));
    if (parsed.success) return parsed.data;
    throw new WarrenError("image_invalid", "the image's manifest or configuration is malformed", {
      cause: parsed.error,
    });
  } catch (error) {
    if (error instanceof SyntaxError) {
      throw new WarrenError("image_invalid", "the image's manifest or configuration is not JSON", {
        cause: error,
      });
    }
    throw error;
  } finally {
    await file.close();
  }
}

function withoutUndefined(value: object): object {
  return Object.fromEntries(Object.entries(value).filter(([, v]) => v !== undefined));
}
