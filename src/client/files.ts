import type { SandboxApi } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { FileInfo, ReadFileOptions, WatchEvent, WriteFileOptions } from "../contracts/files.ts";
import { chunksOf } from "./fetch-transport.ts";

export type FileContent = string | Uint8Array | AsyncIterable<Uint8Array> | ReadableStream<Uint8Array>;

/** Files of one sandbox. Paths are absolute. */
export class SandboxFiles {
  readonly #api: SandboxApi;
  readonly #id: string;

  constructor(api: SandboxApi, id: string) {
    this.#api = api;
    this.#id = id;
  }

  async read(path: string, options?: ReadFileOptions): Promise<Uint8Array> {
    const { body } = await this.#api.files.read(this.#id, path, options);
    const chunks: Uint8Array[] = [];
    for await (const chunk of body) chunks.push(chunk);
    return concat(chunks);
  }

  /** UTF-8; bytes that are not become U+FFFD. */
  async readText(path: string, options?: ReadFileOptions): Promise<string> {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(await this.read(path, options));
  }

  /** The bytes as they come. Leaving the loop early ends the transfer. */
  async *readStream(path: string, options?: ReadFileOptions): AsyncGenerator<Uint8Array> {
    yield* (await this.#api.files.read(this.#id, path, options)).body;
  }

  /** Replaces the file in one step and makes missing directories. Resolves with the number of bytes. */
  async write(path: string, content: FileContent, options?: WriteFileOptions): Promise<number> {
    const { bytes } = await this.#api.files.write(this.#id, path, toBody(content), options);
    return bytes;
  }

  list(path: string): Promise<FileInfo[]> {
    return this.#api.files.list(this.#id, path);
  }

  /** Does not follow a final symbolic link. */
  stat(path: string): Promise<FileInfo> {
    return this.#api.files.stat(this.#id, path);
  }

  async exists(path: string): Promise<boolean> {
    try {
      await this.stat(path);
      return true;
    } catch (error) {
      const codes = ["file_not_found", "not_a_directory"];
      if (error instanceof WarrenError && codes.includes(error.code)) return false;
      throw error;
    }
  }

  /** With parents; an existing directory is success. */
  mkdir(path: string): Promise<void> {
    return this.#api.files.mkdir(this.#id, path);
  }

  /** A file or a whole directory; a missing one is success. */
  remove(path: string): Promise<void> {
    return this.#api.files.remove(this.#id, path);
  }

  rename(from: string, to: string): Promise<void> {
    return this.#api.files.rename(this.#id, from, to);
  }

  chmod(path: string, mode: number): Promise<void> {
    return this.#api.files.chmod(this.#id, path, mode);
  }

  /** Changes as they happen, until the loop is left or the signal fires. */
  async *watch(
    path: string,
    options: { recursive?: boolean; signal?: AbortSignal } = {},
  ): AsyncGenerator<WatchEvent> {
    const left = new AbortController();
    const leave = () => left.abort(options.signal?.reason);
    if (options.signal?.aborted) return;
    options.signal?.addEventListener("abort", leave, { once: true });
    const recursive = options.recursive ?? false;
    try {
      yield* this.#api.files.watch(this.#id, path, { recursive, signal: left.signal });
    } finally {
      options.signal?.removeEventListener("abort", leave);
      left.abort();
    }
  }
}

function toBody(content: FileContent): Uint8Array | AsyncIterable<Uint8Array> {
  if (typeof content === "string") return new TextEncoder().encode(content);
  if (content instanceof Uint8Array) return content;
  return "getReader" in content ? chunksOf(content) : content;
}

function concat(chunks: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}
