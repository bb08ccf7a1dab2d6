import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, realpath, stat } from "node:fs/promises";
import { PassThrough } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { WarrenError } from "../../../contracts/errors.ts";
import { isGone } from "../../../lib/files.ts";
import { cancelled } from "../../../lib/signals.ts";
import { checkedEntries, compressionOf, endOfTar } from "../../../lib/tar-entries.ts";
import { type ApiClient, EngineRefusal, engineFailure } from "../api-client.ts";
import { readMessages } from "./messages.ts";

const MAX_TAR_BYTES = 64 * 2 ** 30;

/** A root filesystem archive of the operator's. */
export interface TarFile {
  path: string;
  /** SHA-256 of what is in it, in hex. */
  digest: string;
}

/** Files that were read before, by what tells that they are as they were. */
export type KnownTars = Map<string, string>;

/**
 * What an archive is, by its content. The same file (device, inode, size, time) is not read again.
 * @throws WarrenError `image_not_found`, `image_invalid` for what is no file
 */
export async function identifyTar(path: string, known: KnownTars, signal?: AbortSignal): Promise<TarFile> {
  const file = await realpath(path).catch((error: unknown) => {
    if (isGone(error)) throw missingTar(path);
    throw error;
  });
  const info = await stat(file, { bigint: true });
  if (!info.isFile()) throw new WarrenError("image_invalid", `${path} is no tar file`);
  const key = `${info.dev}:${info.ino}:${info.size}:${info.mtimeNs}:${info.ctimeNs}`;
  let digest = known.get(key);
  if (digest === undefined) {
    const hash = createHash("sha256");
    await pipeline(createReadStream(file), hash, ...(signal ? [{ signal }] : [])).catch((error: unknown) => {
      throw signal?.aborted ? cancelled(signal) : error;
    });
    digest = hash.digest("hex");
    known.set(key, digest);
  }
  return { path: file, digest };
}

export function missingTar(path: string): WarrenError {
  return new WarrenError("image_not_found", `${path} does not exist`, {
    hint: "an image path is looked up on the host that runs the engine",
  });
}

/**
 * Gives an archive to the engine as an image of this name, unpacked where it is packed with gzip.
 * @throws WarrenError `image_invalid`, `too_large`, `cancelled`
 */
export async function importTar(
  client: ApiClient,
  file: TarFile,
  name: string,
  labels: Readonly<Record<string, string>>,
  signal: AbortSignal,
): Promise<void> {
  let broken: { error: unknown } | undefined;
  const keep = (error: unknown) => {
    broken ??= { error };
  };
  try {
    const answer = await client.stream({
      method: "POST",
      path: "/images/create",
      // With its tag: Podman forgets one that stands for itself.
      query: { fromSrc: "-", repo: name, changes: Object.entries(labels).map(labelChange).join("\n") },
      body: tarBody(file, keep, signal),
      timeoutMs: 0,
      signal,
    });
    for await (const message of readMessages(answer)) {
      if (message.error !== undefined) throw new EngineRefusal(500, message.error);
    }
  } catch (error) {
    if (signal.aborted) throw cancelled(signal);
    throw broken
      ? broken.error
      : engineFailure(error, `${file.path} can't be an image`, { 500: "image_invalid" });
  }
}

function labelChange([key, value]: [string, string]): string {
  return `LABEL ${key}=${value}`;
}

async function* tarBody(
  file: TarFile,
  keep: (error: unknown) => void,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  try {
    const hash = createHash("sha256");
    const raw = hashing(createReadStream(file.path), hash);
    const compression = await compressionOfFile(file.path);
    let entries = 0;
    yield* checkedEntries(compression === "gzip" ? gunzipped(raw, signal) : raw, {
      code: "image_invalid",
      maxBytes: MAX_TAR_BYTES,
      onEntry: () => entries++,
    });
    if (entries === 0) throw new WarrenError("image_invalid", `${file.path} is an empty archive`);
    if (hash.digest("hex") !== file.digest) {
      throw new WarrenError("image_invalid", `${file.path} changed while it was read`);
    }
    yield endOfTar;
  } catch (error) {
    const isBroken = /^(Z_|ERR_|)(DATA|BUF)_?ERROR/.test((error as NodeJS.ErrnoException).code ?? "");
    const told = isBroken
      ? new WarrenError("image_invalid", `${file.path} is broken: it can't be unpacked`, { cause: error })
      : error;
    keep(told);
    throw told;
  }
}

async function* hashing(source: AsyncIterable<Buffer>, hash: { update(bytes: Buffer): unknown }) {
  for await (const chunk of source) {
    hash.update(chunk);
    yield chunk;
  }
}

async function* gunzipped(source: AsyncIterable<Buffer>, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const plain = new PassThrough();
  const unpacking = pipeline(source, createGunzip(), plain, { signal });
  unpacking.catch(() => {}); // told by reading
  yield* plain;
  await unpacking;
}

async function compressionOfFile(path: string): Promise<string | undefined> {
  await using file = await open(path, "r");
  const { bytesRead, buffer } = await file.read(Buffer.alloc(8), 0, 8, 0);
  return compressionOf(buffer.subarray(0, bytesRead));
}
