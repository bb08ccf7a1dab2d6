import { type FileHandle, mkdir, open, readdir, readFile, rm, stat, truncate } from "node:fs/promises";
import { join } from "node:path";
import { noStep, type OnStep } from "../../contracts/steps.ts";
import type { LogOffsets } from "../../guest/types.ts";
import {
  decodeFileHead,
  decodeRecord,
  encodeFileHead,
  encodeRecord,
  FILE_HEAD_BYTES,
  type LogRecord,
} from "./record.ts";

export interface LogLimits {
  /** Bytes of one file. */
  fileBytes: number;
  /** Files of one sandbox; the oldest goes when another is begun. */
  files: number;
}

/** Where a record begins. */
export interface LogPosition {
  file: number;
  at: number;
}

export interface StoredRecord {
  position: LogPosition;
  record: LogRecord;
}

/** Bytes read at one time; several records fit. */
const READ_BYTES = 256 * 1024;
const FILE_NAME = /^(\d{10})\.log$/;

/** The output of one sandbox's main command, in files that are replaced in turn. */
export class SandboxLog {
  readonly #dir: string;
  readonly #limits: LogLimits;
  readonly #onStep: OnStep;
  /** Oldest first, with the bytes of each that are whole. */
  #files: { number: number; size: number }[] = [];
  #known: LogOffsets & { run: number } = { run: Number.NaN, stdout: 0, stderr: 0 };
  #handle: FileHandle | undefined;
  #opening: Promise<void> | undefined;
  #tail: Promise<unknown> = Promise.resolve();
  #listeners = new Set<() => void>();
  #isLive = false;

  constructor(dir: string, limits: LogLimits, onStep: OnStep = noStep) {
    this.#dir = dir;
    this.#limits = limits;
    this.#onStep = onStep;
  }

  /** True while more may come. */
  get isLive(): boolean {
    return this.#isLive;
  }

  set isLive(value: boolean) {
    this.#isLive = value;
    this.#tell();
  }

  /** What is known of a run's output. */
  async offsets(run: number): Promise<LogOffsets> {
    await this.#open();
    await this.flushed();
    const { stdout, stderr } = this.#known;
    return this.#known.run === run ? { stdout, stderr } : { stdout: 0, stderr: 0 };
  }

  /** Resolves once it is written. */
  async append(record: LogRecord): Promise<void> {
    await this.#open();
    const write = this.#tail.then(() => this.#write(record));
    this.#tail = write.catch(() => {});
    await write;
  }

  async flushed(): Promise<void> {
    await this.#tail;
  }

  async close(): Promise<void> {
    this.isLive = false;
    await this.flushed();
    await this.#handle?.close();
    this.#handle = undefined;
    this.#opening = undefined;
  }

  async remove(): Promise<void> {
    await this.close();
    await rm(this.#dir, { recursive: true, force: true });
    this.#files = [];
  }

  /** Calls back after each change. Returns how to stop that. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  async start(): Promise<LogPosition> {
    await this.#open();
    return { file: this.#files[0]?.number ?? 0, at: FILE_HEAD_BYTES };
  }

  async end(): Promise<LogPosition> {
    await this.#open();
    const last = this.#files.at(-1);
    return last ? { file: last.number, at: last.size } : { file: 0, at: FILE_HEAD_BYTES };
  }

  /** Records from a position to what is there now. What was replaced meanwhile is passed over. */
  async *read(from: LogPosition): AsyncGenerator<StoredRecord> {
    for (const file of this.#files.filter(({ number }) => number >= from.file)) {
      const handle = await open(this.#path(file.number), "r").catch((error: NodeJS.ErrnoException) => {
        if (error.code === "ENOENT") return undefined;
        throw error;
      });
      if (!handle) continue;
      try {
        let at = file.number === from.file ? from.at : FILE_HEAD_BYTES;
        while (at < file.size) {
          const bytes = Buffer.allocUnsafe(Math.min(READ_BYTES, file.size - at));
          const { bytesRead } = await handle.read(bytes, 0, bytes.length, at);
          const chunk = bytes.subarray(0, bytesRead);
          let used = 0;
          for (let next = decodeRecord(chunk, 0); next; next = decodeRecord(chunk, used)) {
            yield { position: { file: file.number, at: at + used }, record: next.record };
            used += next.length;
          }
          if (used === 0) break; // broken: the next file may be whole
          at += used;
        }
      } finally {
        await handle.close();
      }
    }
  }

  #tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }

  #path(number: number): string {
    return join(this.#dir, `${String(number).padStart(10, "0")}.log`);
  }

  #open(): Promise<void> {
    this.#opening ??= this.#load();
    return this.#opening;
  }

  async #load(): Promise<void> {
    const names = await readdir(this.#dir).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return [];
      throw error;
    });
    const numbers = names
      .flatMap((name) => FILE_NAME.exec(name)?.[1] ?? [])
      .map(Number)
      .sort((a, b) => a - b);
    const files: { number: number; size: number }[] = [];
    for (const number of numbers) files.push({ number, size: (await stat(this.#path(number))).size });
    for (let last = files.at(-1); last; last = files.at(-1)) {
      const path = this.#path(last.number);
      const bytes = await readFile(path);
      const head = decodeFileHead(bytes);
      if (!head) {
        // Begun just before a crash: the one before it says how far things were.
        await rm(path, { force: true });
        files.pop();
        continue;
      }
      this.#known = { ...head };
      last.size = FILE_HEAD_BYTES;
      for (let next = decodeRecord(bytes, last.size); next; next = decodeRecord(bytes, last.size)) {
        this.#note(next.record);
        last.size += next.length;
      }
      // What a crash left of the last record goes.
      if (last.size < bytes.length) await truncate(path, last.size);
      break;
    }
    // All at once: somebody may be reading.
    this.#files = files;
  }

  #note({ run, stream, offset, data }: LogRecord): void {
    if (this.#known.run !== run) this.#known = { run, stdout: 0, stderr: 0 };
    this.#known[stream] = offset + data.length;
  }

  async #write(record: LogRecord): Promise<void> {
    const bytes = encodeRecord(record);
    let last = this.#files.at(-1);
    const isFull = last !== undefined && last.size + bytes.length > this.#limits.fileBytes;
    if (last === undefined || isFull) last = await this.#begin(record.run);
    this.#handle ??= await open(this.#path(last.number), "r+");
    // At its place, so that what a failed write left is written over.
    await writeWhole(this.#handle, bytes, last.size);
    last.size += bytes.length;
    this.#onStep("log.written");
    this.#note(record);
    this.#tell();
  }

  async #begin(run: number): Promise<{ number: number; size: number }> {
    await this.#handle?.close();
    this.#handle = undefined;
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    const number = (this.#files.at(-1)?.number ?? 0) + 1;
    const { stdout, stderr } = this.#known.run === run ? this.#known : { stdout: 0, stderr: 0 };
    this.#handle = await open(this.#path(number), "w+", 0o600);
    await writeWhole(this.#handle, encodeFileHead({ run, stdout, stderr }), 0);
    this.#onStep("log.begun");
    const file = { number, size: FILE_HEAD_BYTES };
    this.#files.push(file);
    while (this.#files.length > this.#limits.files) {
      const oldest = this.#files.shift();
      if (oldest) await rm(this.#path(oldest.number), { force: true });
      this.#onStep("log.replaced");
    }
    return file;
  }
}

/** A full disk takes part of a write, and refuses only the next. */
async function writeWhole(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}
