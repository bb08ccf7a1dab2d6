import type { Duplex } from "node:stream";
import type { ExecExit, ExecSession } from "../contracts/exec.ts";
import type {
  FileDownload,
  FileInfo,
  ReadFileOptions,
  WatchEvent,
  WriteFileOptions,
} from "../contracts/files.ts";
import type { DatagramPort, DatagramSink } from "./datagrams.ts";

export interface SpawnRequest {
  argv: readonly string[];
  /** Complete: nothing is inherited. */
  env: Readonly<Record<string, string>>;
  /** Default `/`. */
  cwd?: string;
  /** `name`, `uid`, `uid:gid` or `name:group`; default: as the guest. */
  user?: string;
  tty?: { cols: number; rows: number };
  /** Keep stdin open; else it is /dev/null. */
  stdin?: boolean;
  /** Milliseconds; 0 or absent: none. */
  timeoutMs?: number;
  /** Bytes of each of stdout and stderr that are sent; the rest is dropped inside. 0 or absent: all. */
  maxOutputBytes?: number;
  /** Keep running when this connection ends. */
  detached?: boolean;
}

/** An exit as the guest tells it. Out-of-memory is the engine's to add: it reads the cgroup. */
export interface GuestExit extends ExecExit {
  stdoutTruncated: boolean;
  stderrTruncated: boolean;
  /** User and system time of the tree, in microseconds, as far as it was reaped. */
  cpuTimeUs: number;
}

export interface GuestSession extends ExecSession {
  readonly exit: Promise<GuestExit>;
  /** Pid inside the sandbox. */
  readonly pid: number;
  /** Kills the whole tree. */
  kill(): Promise<void>;
}

/** Bytes of each stream that are known already. */
export interface LogOffsets {
  stdout: number;
  stderr: number;
}

export interface GuestLogChunk {
  stream: "stdout" | "stderr";
  /** Of its first byte, in its stream, counted from the start of the command. */
  offset: number;
  data: Uint8Array;
}

export interface GuestInfo {
  protocol: number;
  version: string;
  /** Programs that know no proxy have their way out too. */
  captures: boolean;
  /** It knows `listen`. */
  hasServices: boolean;
}

/** A connection of a program inside, as raw bytes; each direction ends by itself. */
export interface AcceptedConnection {
  socket: Duplex;
  /** What the program wanted to reach, where its connection was captured. Absent: it is connected to the proxy port. */
  target?: {
    /** A name or an IP address, as the guest says: anything. */
    host: string;
    port: number;
  };
}

/** Services of the host that a guest can listen for; which one a number is, is the host's to say. */
export type ServiceNumber = 1 | 2;
/** A Unix socket for every user inside, by its absolute path, or a port of 127.0.0.1. */
export type ServicePlace = { path: string } | { port: number };

/**
 * The host's side of one sandbox's guest. Each call makes its own connection. The guest is hostile: answers are parsed
 * with limits, and a guest that breaks the protocol or does not answer gives `guest_failed` in bounded time.
 * errno from inside becomes file_not_found, permission_denied, file_exists, not_a_directory and so on.
 */
export interface GuestClient {
  hello(): Promise<GuestInfo>;
  /** Resolves once the command has started. */
  spawn(request: SpawnRequest, options?: { signal?: AbortSignal }): Promise<GuestSession>;
  /**
   * Settles when the main command has ended; `undefined` never comes unless there is a main command. Rejects with
   * `guest_failed` when the guest goes away. `started` settles as soon as the guest has answered.
   */
  waitMain(options?: { signal?: AbortSignal }): {
    started: Promise<{ hasMain: boolean }>;
    exit: Promise<GuestExit>;
  };
  /**
   * The main command's output from these offsets on, live; ends when the command has ended and all has come. A gap in the
   * offsets was lost inside: the guest keeps the last 128 KiB of each stream. Fails with `guest_failed` when it goes away.
   */
  logs(from: LogOffsets, options: { signal: AbortSignal }): AsyncIterable<GuestLogChunk>;
  shutdown(graceMs: number): Promise<void>;
  readFile(path: string, options?: ReadFileOptions): Promise<FileDownload>;
  writeFile(
    path: string,
    body: AsyncIterable<Uint8Array> | Uint8Array,
    options?: WriteFileOptions,
  ): Promise<{ bytes: number }>;
  stat(path: string, options?: { follow?: boolean }): Promise<FileInfo>;
  list(path: string): Promise<FileInfo[]>;
  mkdir(path: string, options?: { parents?: boolean; mode?: number }): Promise<void>;
  rename(from: string, to: string, options?: { noReplace?: boolean }): Promise<void>;
  remove(path: string, options?: { recursive?: boolean; missingOk?: boolean }): Promise<void>;
  chmod(path: string, mode: number): Promise<void>;
  watch(path: string, options: { recursive?: boolean; signal: AbortSignal }): AsyncIterable<WatchEvent>;
  /** A UDP port inside, through which many clients of the host reach it. */
  datagrams(port: number, sink: DatagramSink): Promise<DatagramPort>;
  /** A raw connection to a TCP port inside. */
  dial(port: number, options?: { host?: string; timeoutMs?: number }): Promise<Duplex>;
  /** The next connection of a program inside that leads out. Throws `unsupported` when the guest has no proxy port. */
  accept(signal: AbortSignal): Promise<AcceptedConnection>;
  /** Has programs inside reach a service of the host from now on, at one place. They can already: success. */
  listen(service: ServiceNumber, at: ServicePlace): Promise<void>;
  /** The next connection of a program inside to it, as raw bytes. Throws `unsupported` before `listen`. */
  acceptService(service: ServiceNumber, signal: AbortSignal): Promise<Duplex>;
}

/** `connect` is the runtime's, bound to one sandbox. */
export type CreateGuestClient = (connect: () => Promise<Duplex>) => GuestClient;
