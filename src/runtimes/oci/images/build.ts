import { randomBytes } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join, posix } from "node:path";
import { pipeline } from "node:stream/promises";
import { WarrenError } from "../../../contracts/errors.ts";
import type { BuildOptions, PreparedImage } from "../../../contracts/runtime.ts";
import type { GuestClient, GuestSession } from "../../../guest/types.ts";
import { statOrUndefined } from "../../../lib/files.ts";
import { lastWords } from "../../../lib/last-words.ts";
import { cutLines } from "../../../lib/lines.ts";
import { NO_NETWORK } from "../../common/images/build-hint.ts";
import { withDiskGuard } from "../../common/images/disk-guard.ts";
import { parseReference } from "../../common/images/reference.ts";
import type { OpenBuildBox } from "../build-box.ts";
import { needProgram } from "../programs.ts";
import { baseImages } from "./base-images.ts";
import {
  ARCHIVE,
  fetchOci,
  imageDir,
  knownDigest,
  type OciImagesOptions,
  skopeoCopy,
  sourceOf,
} from "./oci.ts";

/** Longest that a build may take. */
const BUILD_TIMEOUT_MS = 2 * 3_600_000;
/** Lines of a failed build that its error tells. */
const TAIL_LINES = 50;
/** Bytes of a Dockerfile that are looked at for base images. */
const MAX_DOCKERFILE = 1 << 20;
/** Words of a tool of our own that are kept for its error. */
const MAX_WORDS = 16_384;

/** Inside the build box. */
const HOME = "/build";
const CONTEXT = `${HOME}/context`;
const STORAGE = { root: `${HOME}/storage`, runroot: `${HOME}/run` };
const POLICY = `${HOME}/policy.json`;
const IMAGE_ID = `${HOME}/image-id`;

/** The box's own settings: nothing of the host's, such as limits that a process in it can't have, is taken over. */
const settings: Readonly<Record<string, string>> = {
  [POLICY]: JSON.stringify({ default: [{ type: "insecureAcceptAnything" }] }),
  [`${HOME}/containers.conf`]: "",
  [`${HOME}/registries.conf`]:
    'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "disabled"\n',
};
const proxies = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];
const baseEnv: Readonly<Record<string, string>> = {
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  HOME,
  TMPDIR: `${HOME}/tmp`,
  CONTAINERS_CONF: `${HOME}/containers.conf`,
  CONTAINERS_REGISTRIES_CONF: `${HOME}/registries.conf`,
};
/** Names that mean something to buildah itself, so that their values are given as arguments. */
const meansSomething =
  /^(PATH|HOME|TMPDIR|USER|IFS|.*_proxy|LD_.*|GO.*|BUILDAH.*|CONTAINER.*|STORAGE.*|REGISTR.*|XDG_.*|SSL_.*|DBUS_.*|_.*)$/i;

export interface BuilderOptions extends OciImagesOptions {
  openBox: OpenBuildBox;
}

/**
 * Builds an image with buildah in a sandbox of our own, and gives it its name here. Base images are copied by us, on the host,
 * where credentials are.
 * @throws WarrenError `image_build_failed`, `invalid_request` for a context that can't be unpacked, as `fetchOci` of base images, `no_space`, `unsupported` without buildah, `cancelled`
 */
export async function buildImage(
  build: BuildOptions,
  options: BuilderOptions,
  signal: AbortSignal,
): Promise<PreparedImage> {
  const wanted = parseReference(build.tag.startsWith("docker://") ? build.tag : `docker://${build.tag}`);
  if (wanted.kind !== "registry" || wanted.name.includes("@")) {
    throw new WarrenError("image_invalid", `${JSON.stringify(build.tag)} can't be an image's name`);
  }
  await needProgram("buildah", "building an image");
  const skopeo = await needProgram("skopeo", "building an image");
  const temporary = join(options.dir, `.new-${randomBytes(8).toString("hex")}`);
  await mkdir(temporary, { recursive: true, mode: 0o700 });
  const archive = join(temporary, ARCHIVE);
  try {
    await withDiskGuard(options.dir, signal, async (guarded) => {
      const limit = AbortSignal.timeout(BUILD_TIMEOUT_MS);
      const ending = AbortSignal.any([guarded, limit]);
      try {
        await using box = await options.openBox(build, ending);
        options.onStep("image.build-begun");
        const job = { ...options, guest: box.guest, temporary, skopeo, signal: ending };
        await endedBy(ending, runBuild(build, job, archive));
      } catch (error) {
        if (signal.aborted) throw new WarrenError("cancelled", "the build was cancelled", { cause: error });
        if (limit.aborted) throw new WarrenError("deadline_exceeded", `building ${build.tag} took too long`);
        throw error;
      }
    });
    options.onStep("image.build-built");
    const source = { ...sourceOf(wanted), from: `oci-archive:${archive}:image`, archive };
    return await fetchOci(build.tag, source, { ...options, onProgress: undefined }, signal);
  } finally {
    await options.discard(temporary);
  }
}

interface Job extends BuilderOptions {
  guest: GuestClient;
  temporary: string;
  skopeo: string;
  signal: AbortSignal;
}

async function runBuild(build: BuildOptions, job: Job, archive: string): Promise<void> {
  const { guest } = job;
  for (const dir of [CONTEXT, `${HOME}/tmp`]) await guest.mkdir(dir, { parents: true });
  for (const [path, text] of Object.entries(settings)) await guest.writeFile(path, Buffer.from(text));
  await unpackContext(build.context, guest);
  const dockerfile = await findDockerfile(build.dockerfile, guest);
  for (const [index, name] of baseImages(dockerfile.text, build.buildArgs).entries()) {
    await bringBase(name, index, build, job);
  }
  await runBuildah(build, dockerfile.path, guest);
  await inBox(guest, [
    ...buildah("push"),
    `--signature-policy=${POLICY}`,
    "--quiet",
    (await text(guest, IMAGE_ID, 1024)).trim(),
    `oci-archive:${HOME}/${ARCHIVE}:image`,
  ]);
  const { body } = await guest.readFile(`${HOME}/${ARCHIVE}`, { signal: job.signal });
  await pipeline(body, createWriteStream(archive, { mode: 0o600, flags: "wx" }), { signal: job.signal });
}

const buildah = (command: string): string[] => [
  "buildah",
  `--root=${STORAGE.root}`,
  `--runroot=${STORAGE.runroot}`,
  "--storage-driver=vfs",
  command,
];

/** In the box, where nothing that it may lead to is anybody's. */
async function unpackContext(context: AsyncIterable<Uint8Array>, guest: GuestClient): Promise<void> {
  const argv = ["tar", "--extract", "--file=-", `--directory=${CONTEXT}`, "--no-same-owner"];
  await using tar = await guest.spawn({
    argv: [...argv, "--delay-directory-restore", "--warning=no-timestamp"],
    env: baseEnv,
    stdin: true,
  });
  const fed = feed(context, tar);
  fed.catch(() => {}); // looked at below
  const words = await lastBytes(tar);
  const { exit_code: code } = await tar.exit;
  await fed;
  if (code === 0) return;
  throw new WarrenError("invalid_request", `the build context can't be unpacked: ${lastWords(words)}`);
}

/** Throws what the context throws. A program that has ended takes no more, and says itself why. */
async function feed(context: AsyncIterable<Uint8Array>, program: GuestSession): Promise<void> {
  try {
    for await (const chunk of context) {
      const isTaken = await program.write(chunk).then(
        () => true,
        () => false,
      );
      if (!isTaken) return;
    }
  } catch (error) {
    await program.kill();
    throw error;
  }
  await program.end().catch(() => {});
}

async function findDockerfile(
  asked: string | undefined,
  guest: GuestClient,
): Promise<{ path: string; text: string }> {
  if (asked !== undefined && (posix.isAbsolute(asked) || posix.normalize(asked).startsWith(".."))) {
    throw new WarrenError(
      "invalid_request",
      `the Dockerfile ${JSON.stringify(asked)} is not in the build context`,
    );
  }
  for (const name of asked === undefined ? ["Dockerfile", "Containerfile"] : [asked]) {
    const path = posix.join(CONTEXT, name);
    const isFile = await guest.stat(path).then(
      ({ type }) => type === "file",
      () => false,
    );
    if (isFile) return { path, text: await text(guest, path, MAX_DOCKERFILE) };
  }
  const name = asked === undefined ? "Dockerfile" : asked;
  throw new WarrenError(
    "image_build_failed",
    `there is no file ${JSON.stringify(name)} in the build context`,
  );
}

async function text(guest: GuestClient, path: string, length: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of (await guest.readFile(path, { length })).body) chunks.push(chunk);
  return Buffer.concat(chunks).toString("utf8");
}

/** Puts an image where buildah finds it: what was built here, or what its registry has. */
async function bringBase(name: string, index: number, build: BuildOptions, job: Job): Promise<void> {
  const { guest, temporary } = job;
  const wanted = parseReference(`docker://${name}`);
  if (wanted.kind !== "registry") return;
  if (wanted.name.includes("@")) {
    throw new WarrenError("unsupported", `a build can't start from the digest of ${name}`, {
      hint: "name a tag instead",
    });
  }
  build.onProgress?.({ line: `base image ${name}` });
  const file = (await builtArchive(job.dir, sourceOf(wanted).name)) ?? join(temporary, `base-${index}.tar`);
  if (!(await statOrUndefined(file))) {
    await skopeoCopy(job.skopeo, sourceOf(wanted), `oci-archive:${file}:image`, job);
  }
  const inside = `${HOME}/base.tar`;
  await guest.writeFile(inside, createReadStream(file));
  // buildah gives itself a user namespace with all ids, which skopeo doesn't.
  const pulled = await inBox(guest, [
    ...buildah("pull"),
    `--signature-policy=${POLICY}`,
    "--quiet",
    `oci-archive:${inside}:image`,
  ]);
  const id = pulled.trim().split("\n").at(-1) ?? "";
  await inBox(guest, [...buildah("tag"), id, wanted.name]);
  await guest.remove(inside);
}

async function builtArchive(dir: string, name: string): Promise<string | undefined> {
  const digest = await knownDigest(dir, name);
  const path = digest === undefined ? undefined : join(imageDir(dir, digest), ARCHIVE);
  return path !== undefined && (await statOrUndefined(path)) ? path : undefined;
}

async function runBuildah(build: BuildOptions, dockerfile: string, guest: GuestClient): Promise<void> {
  const args = Object.entries(build.buildArgs ?? {});
  // Other users of the host can read arguments.
  const hidden = args.filter(([name]) => !meansSomething.test(name));
  const shown = args.filter(([name]) => meansSomething.test(name));
  const argv = [
    ...buildah("build"),
    "--isolation=chroot",
    "--pull-never",
    `--signature-policy=${POLICY}`,
    `--iidfile=${IMAGE_ID}`,
    `--file=${dockerfile}`,
    ...hidden.map(([name]) => `--build-arg=${name}`),
    ...shown.map(([name, value]) => `--build-arg=${name}=${value}`),
    ...(build.target === undefined ? [] : [`--target=${build.target}`]),
    CONTEXT,
  ];
  const env: Record<string, string> = { ...Object.fromEntries(hidden), ...baseEnv };
  for (const name of proxies) {
    const value = process.env[name];
    if (value !== undefined) env[name] = value;
  }
  const tail: string[] = [];
  const tell = (line: string) => {
    tail.push(line);
    if (tail.length > TAIL_LINES) tail.shift();
    build.onProgress?.({ line });
  };
  const streams = { stdout: cutLines(tell), stderr: cutLines(tell) };
  await using session = await guest.spawn({ argv, env, cwd: HOME });
  for await (const { stream, data } of session.output) streams[stream].push(data);
  for (const stream of Object.values(streams)) stream.end();
  const { exit_code: code } = await session.exit;
  if (code === 0) return;
  throw new WarrenError(
    "image_build_failed",
    [`building ${build.tag} failed with ${code}`, ...tail].join("\n"),
    { hint: `the last lines say why${build.network === "open" ? "" : `; ${NO_NETWORK}`}` },
  );
}

/** What a tool says at its end. */
async function inBox(guest: GuestClient, argv: readonly string[]): Promise<string> {
  await using session = await guest.spawn({ argv, env: baseEnv, cwd: HOME });
  const words = await lastBytes(session);
  const { exit_code: code } = await session.exit;
  if (code === 0) return Buffer.from(words).toString("utf8");
  throw new WarrenError("image_build_failed", `${argv[0]} failed in the build: ${lastWords(words)}`);
}

async function lastBytes(session: GuestSession): Promise<Uint8Array> {
  let last = Buffer.alloc(0);
  for await (const { data } of session.output) last = Buffer.concat([last, data]).subarray(-MAX_WORDS);
  return last;
}

/** What goes on after the signal fails by itself, when the box has gone. */
async function endedBy<T>(signal: AbortSignal, task: Promise<T>): Promise<T> {
  let onAbort = () => {};
  const aborted = new Promise<never>((_resolve, reject) => {
    onAbort = () => reject(new WarrenError("cancelled", "the build was cancelled"));
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
  });
  task.catch(() => {});
  try {
    return await Promise.race([task, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
