import { constants, type Stats } from "node:fs";
import { type FileHandle, lstat, open, readdir, readlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type Pack, pack } from "tar-stream";
import { WarrenError } from "../../contracts/errors.ts";
import { type Ignores, parseDockerIgnore } from "./docker-ignore.ts";

export interface PackOptions {
  /** Path of the Dockerfile inside the directory. It is always taken in, and its own `<name>.dockerignore` is looked for. */
  dockerfile?: string;
}

/** Larger than any that somebody wrote by hand. */
const MAX_IGNORE_BYTES = 1024 * 1024;
const CHUNK_BYTES = 64 * 1024;
/** Headers of what has no content, which nothing else holds back. */
const MAX_AHEAD_BYTES = 1024 * 1024;
/** At least: what does not fit in a header has blocks of its own. More is never counted than will come. */
const HEADER_BYTES = 512;

const { O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;

/**
 * A directory as an uncompressed tar, for `images.build`: without what its `.dockerignore` names, in an order that depends on
 * names alone, with modes and times, and owned by root. Links stay links: whatever is linked or renamed meanwhile, nothing is read
 * but what lies in the directory. Sockets are left out.
 * @throws WarrenError `invalid_request` for what is no directory, a device in it, and a file that changes while it is read;
 * `invalid_path` for names that are not UTF-8; `permission_denied` for what can't be read.
 */
export async function* packDirectory(path: string, options: PackOptions = {}): AsyncGenerator<Uint8Array> {
  await using root = await holdRoot(path);
  const ignore = await readIgnore(root, options.dockerfile ?? "Dockerfile");
  const tar = pack();
  const room = createRoom(MAX_AHEAD_BYTES);
  const writing = writeTree(
    { tar, room, ignore, always: alwaysKept(options.dockerfile) },
    root,
    async () => {},
  ).then(
    () => tar.finalize(),
    (error: Error) => tar.destroy(error),
  );
  try {
    for await (const chunk of tar) {
      const bytes = chunk as Uint8Array;
      room.give(bytes.length);
      yield bytes;
    }
  } finally {
    tar.destroy();
    room.give(Number.POSITIVE_INFINITY);
    await writing;
  }
}

type Header = Parameters<Pack["entry"]>[0];

/** A directory that is held open: what is below is reached through its descriptor, whatever becomes of its path. */
interface Held extends AsyncDisposable {
  /** Path inside the context; empty for the context itself. */
  readonly path: string;
  at(name: string): string;
}

interface Context {
  tar: Pack;
  room: Room;
  ignore: Ignores | undefined;
  /** Taken in though it may be ignored. */
  always(path: string): boolean;
}

/** Writes what is in a directory. `writeParents` puts the directories above it there, if they aren't yet. */
async function writeTree(
  context: Context,
  directory: Held,
  writeParents: () => Promise<void>,
): Promise<void> {
  for (const name of await namesIn(directory)) {
    const path = directory.path === "" ? name : `${directory.path}/${name}`;
    const isIgnored = context.ignore?.ignores(path) === true && !context.always(path);
    const stats = await explained(path, lstat(directory.at(name)));
    if (stats.isDirectory()) {
      if (isIgnored && !context.ignore?.mayHoldKept(path) && !context.always(`${path}/`)) continue;
      const write = once(async () => {
        await writeParents();
        await writeHeader(context, { ...common(`${path}/`, stats), type: "directory" });
      });
      if (!isIgnored) await write();
      await using child = await hold(directory.at(name), path, O_NOFOLLOW);
      await writeTree(context, child, write);
    } else if (!isIgnored && !stats.isSocket()) {
      await writeParents();
      await writeEntry(context, directory.at(name), path, stats);
    }
  }
}

async function writeEntry(context: Context, at: string, path: string, stats: Stats): Promise<void> {
  if (stats.isFile()) await writeFile(context.tar, at, path);
  else if (stats.isSymbolicLink()) {
    const linkname = utf8(await explained(path, readlink(at, "buffer")), path);
    await writeHeader(context, { ...common(path, stats), type: "symlink", linkname });
  } else if (stats.isFIFO()) await writeHeader(context, { ...common(path, stats), type: "fifo" });
  else {
    throw new WarrenError(
      "invalid_request",
      `${JSON.stringify(path)} is a device: it can't be part of a build`,
      {
        hint: "name it in .dockerignore",
      },
    );
  }
}

async function writeFile(tar: Pack, at: string, path: string): Promise<void> {
  await using file = (await explained(path, open(at, O_RDONLY | O_NOFOLLOW | O_NONBLOCK))) as FileHandle &
    AsyncDisposable;
  const stats = await file.stat();
  if (!stats.isFile()) throw changed(path);
  const written = settled();
  const sink = tar.entry({ ...common(path, stats), type: "file", size: stats.size }, written.done);
  sink.on("error", () => {}); // told by the other callback
  for (let left = stats.size; left > 0; ) {
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(Math.min(left, CHUNK_BYTES)), 0);
    if (bytesRead === 0) throw changed(path);
    left -= bytesRead;
    if (!sink.write(buffer.subarray(0, bytesRead))) await drained(sink);
    if (sink.destroyed) break;
  }
  sink.end(null);
  await written.promise;
}

/** Settles when it takes more, or never will again. */
function drained(sink: ReturnType<Pack["entry"]>): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      sink.off("drain", done).off("close", done);
      resolve();
    };
    sink.on("drain", done).on("close", done);
  });
}

async function writeHeader({ tar, room }: Context, header: Header): Promise<void> {
  await room.take(HEADER_BYTES);
  const written = settled();
  tar.entry(header, written.done);
  await written.promise;
}

function common(path: string, { mode, mtime }: Stats): Header {
  // With the bits of the type, which are not written: a mode of 0 would be taken for none.
  return { name: path, mode, mtime, uid: 0, gid: 0 };
}

/** In the order of their bytes. */
async function namesIn(directory: Held): Promise<string[]> {
  const shown = directory.path === "" ? "the directory" : directory.path;
  const names = await explained(shown, readdir(directory.at("."), { encoding: "buffer" }));
  return names.sort(Buffer.compare).map((name) => utf8(name, directory.path));
}

function utf8(bytes: Buffer, path: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    const shown = JSON.stringify(join(path, bytes.toString("latin1")));
    throw new WarrenError("invalid_path", `${shown} has a name that is not UTF-8`, {
      hint: "rename it, or name its directory in .dockerignore",
      cause,
    });
  }
}

/** The Dockerfile's own file of that kind, else the directory's. */
async function readIgnore(root: Held, dockerfile: string): Promise<Ignores | undefined> {
  for (const name of [`${dockerfile}.dockerignore`, ".dockerignore"]) {
    let file: FileHandle & AsyncDisposable;
    try {
      file = (await open(root.at(name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK)) as typeof file;
    } catch (error) {
      if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) continue;
      throw named(error, name);
    }
    await using _ = file;
    const stats = await file.stat();
    if (!stats.isFile() || stats.size > MAX_IGNORE_BYTES) {
      throw new WarrenError("invalid_request", `${name} is not a file of at most ${MAX_IGNORE_BYTES} bytes`);
    }
    return parseDockerIgnore(utf8(await file.readFile(), name), name);
  }
  return undefined;
}

/** A builder needs its file, which people like to leave out of their images. With a slash at its end: what is above it. */
function alwaysKept(dockerfile: string | undefined): (path: string) => boolean {
  const files = dockerfile === undefined ? ["Dockerfile", "Containerfile"] : [dockerfile];
  const above = new Set<string>();
  for (const file of files) for (let at = dirname(file); at !== "."; at = dirname(at)) above.add(`${at}/`);
  return (path) => files.includes(path) || above.has(path);
}

/** The directory that the user named; links in its own path are the user's. */
async function holdRoot(path: string): Promise<Held> {
  try {
    return await hold(path, "", 0);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? "";
    const why =
      code === "ENOENT"
        ? "does not exist"
        : code === "ENOTDIR"
          ? "is not a directory"
          : `can't be read: ${code}`;
    throw new WarrenError("invalid_request", `${path} ${why}`, { cause });
  }
}

async function hold(at: string, path: string, flags: number): Promise<Held> {
  const opening = open(at, O_RDONLY | O_DIRECTORY | flags);
  const handle = await (path === "" ? opening : explained(path, opening));
  // openat(2) by way of /proc. Elsewhere than on Linux a path must do.
  const base = process.platform === "linux" ? `/proc/self/fd/${handle.fd}` : at;
  return {
    path,
    at: (name) => join(base, name),
    [Symbol.asyncDispose]: () => handle.close(),
  };
}

async function explained<T>(path: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw named(error, path);
  }
}

/** The error under the name that the user knows, instead of a path below /proc/self/fd. */
function named(error: unknown, path: string): unknown {
  const { code } = error as NodeJS.ErrnoException;
  if (code === undefined || error instanceof WarrenError) return error;
  if (["ENOENT", "ELOOP", "ENOTDIR", "EINVAL", "ENXIO"].includes(code)) return changed(path, error);
  return new WarrenError("permission_denied", `${JSON.stringify(path)} can't be read: ${code}`, {
    hint: "name it in .dockerignore, if the build does not need it",
    cause: error,
  });
}

function changed(path: string, cause?: unknown): WarrenError {
  return new WarrenError("invalid_request", `${JSON.stringify(path)} changed while it was read`, {
    hint: "try again, or name it in .dockerignore",
    cause,
  });
}

/** Runs the task the first time, and is done with it the other times. */
function once(task: () => Promise<void>): () => Promise<void> {
  let running: Promise<void> | undefined;
  return () => (running ??= task());
}

/** A promise that a callback of Node's kind settles. */
function settled(): { promise: Promise<void>; done: (error?: Error | null) => void } {
  let done: (error?: Error | null) => void = () => {};
  const promise = new Promise<void>((resolve, reject) => {
    done = (error) => (error ? reject(error) : resolve());
  });
  promise.catch(() => {}); // whoever waits hears it
  return { promise, done };
}

interface Room {
  /** Waits until so much fits. */
  take(bytes: number): Promise<void>;
  give(bytes: number): void;
}

function createRoom(most: number): Room {
  let taken = 0;
  let wake = () => {};
  return {
    async take(bytes) {
      while (taken > most) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      taken += bytes;
    },
    give(bytes) {
      taken = Math.max(0, taken - bytes);
      wake();
    },
  };
}
