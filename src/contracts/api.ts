import type { AnyCredentials, CredentialInfo, CredentialKind } from "./credentials.ts";
import type { EventOptions, SandboxEvent } from "./events.ts";
import type { ExecRequest, ExecResult, ExecSession, ExecStreamRequest } from "./exec.ts";
import type { FileDownload, FileInfo, ReadFileOptions, WatchEvent, WriteFileOptions } from "./files.ts";
import type { BuildImage, ImageFilter, ImageInfo, PullImage } from "./images.ts";
import type { LogOptions, LogStream } from "./logs.ts";
import type { NetworkChange, NetworkDecision, NetworkRules, NetworkState } from "./network.ts";
import type { PortChoice, PortMapping, PreviewLink, PreviewRequest, PublishedPort } from "./ports.ts";
import type { ProgressOptions } from "./runtime.ts";
import type {
  CreateSandbox,
  PruneResult,
  RuntimeChoice,
  SandboxInfo,
  SandboxStats,
  SandboxStatus,
  SystemStats,
  UpdateSandbox,
} from "./sandbox.ts";
import type { PutSecret, Secret } from "./secrets.ts";
import type { CreateSnapshot, RestoreSnapshot, SnapshotFilter, SnapshotInfo } from "./snapshots.ts";
import type { CreateVolume, VolumeFilter, VolumeInfo, VolumeUsage } from "./volumes.ts";

export interface CallOptions {
  /** Gives up on the call. What was half done is undone. */
  signal?: AbortSignal;
}

/** Who calls, as far as the server knows. */
export interface Caller {
  /** The engine's own socket, or TCP. */
  via: "socket" | "tcp";
  /** What the client says that it is, such as `cli`. */
  client?: string;
  /** Of the other end of a TCP connection. */
  address?: string;
  /** The beginning of the SHA-256 of its API key. */
  key?: string;
}

export interface ChangeOptions {
  /** For the audit log. A server says it of its clients; what a client says of itself is not sent. */
  by?: Caller;
}

export interface WaitOptions extends CallOptions {
  /** Seconds after which the answer is how things are then. Absent: as long as it takes. */
  timeoutS?: number;
}

export interface WaitResult {
  /** Of the main command; null when there is none, it was lost, or it still runs at the timeout. */
  exit_code: number | null;
  status: SandboxStatus;
}

export interface Health {
  status: "ok" | "unhealthy";
  reason?: string;
  features: string[];
}

export interface VersionInfo {
  version: string;
  commit: string;
  build_date: string;
  features: string[];
}

/** Images of runtimes that keep a store of them. One that keeps none refuses with `unsupported`. */
export interface ImagesApi {
  /** By reference, each image once for each of its names. Of all runtimes that have a store, when none is named. */
  list(filter?: ImageFilter): Promise<ImageInfo[]>;
  /** Asks no registry. Throws `image_not_found`. */
  get(reference: string, options?: RuntimeChoice): Promise<ImageInfo>;
  /** Fetches it, newer than what is here where there is a newer one. Throws `image_pull_failed`. */
  pull(request: PullImage, options?: ProgressOptions): Promise<ImageInfo>;
  /**
   * `context` is an uncompressed tar with all that the build may read. Throws `image_build_failed` with its last lines,
   * `invalid_request` for what is no whole tar, `too_large`. When it fails or is given up, nothing gets the tag.
   */
  build(
    request: BuildImage,
    context: AsyncIterable<Uint8Array>,
    options?: ProgressOptions,
  ): Promise<ImageInfo>;
  /** Throws `image_not_found`, and `in_use` while a sandbox is made of it. */
  remove(reference: string, options?: RuntimeChoice): Promise<void>;
}

/**
 * Snapshots of sandboxes, which outlive them. `id` is a full id, a unique prefix of one with at least 4 characters after `snap-`,
 * or a name that only one has.
 */
export interface SnapshotsApi {
  /**
   * Of a sandbox that runs, is paused or stopped, and that goes on as it was; in its turn. Throws `sandbox_wrong_state`,
   * `unsupported` where its runtime has no snapshots. One that fails or is given up leaves nothing.
   */
  create(
    sandboxId: string,
    request?: CreateSnapshot,
    options?: CallOptions & ChangeOptions,
  ): Promise<SnapshotInfo>;
  /** Oldest first. */
  list(filter?: SnapshotFilter): Promise<SnapshotInfo[]>;
  /** Throws `snapshot_not_found`. */
  get(id: string): Promise<SnapshotInfo>;
  /**
   * A new sandbox that runs, with its files and all settings of the old one as they were then. A port of the engine's machine
   * that somebody else has by now becomes a free one, which the answer tells.
   */
  restore(id: string, request?: RestoreSnapshot, options?: CallOptions & ChangeOptions): Promise<SandboxInfo>;
  /** Sandboxes that were restored from it stay whole. Throws `snapshot_not_found`. */
  remove(id: string, options?: ChangeOptions): Promise<void>;
}

/** Named storage that outlives sandboxes. A runtime that has none refuses with `unsupported`. */
export interface VolumesApi {
  /** There already is success; its labels stay as they are then. */
  create(request: CreateVolume): Promise<VolumeInfo>;
  /** Throws `volume_not_found`. */
  get(name: string, options?: RuntimeChoice): Promise<VolumeInfo>;
  /** By name. Of all runtimes that have volumes, when none is named. */
  list(filter?: VolumeFilter): Promise<VolumeInfo[]>;
  /**
   * With all that is in it. Throws `volume_not_found`, and `in_use` while a sandbox has it, stopped or not; with `force`
   * those sandboxes are removed first.
   */
  remove(name: string, options?: RuntimeChoice & { force?: boolean }): Promise<void>;
  /** Takes its time: each file is looked at. Of all runtimes that have volumes, when none is named. */
  usage(filter?: VolumeFilter): Promise<VolumeUsage[]>;
}

export interface FilesApi {
  read(id: string, path: string, options?: ReadFileOptions): Promise<FileDownload>;
  /** Replaces the file in one step: a reader sees the old bytes or the new ones; a broken transfer changes nothing. */
  write(
    id: string,
    path: string,
    body: AsyncIterable<Uint8Array> | Uint8Array,
    options?: WriteFileOptions,
  ): Promise<{ bytes: number }>;
  /** Removes a file or a whole directory. A missing path is success. */
  remove(id: string, path: string): Promise<void>;
  list(id: string, path: string): Promise<FileInfo[]>;
  /** Does not follow a final symbolic link. */
  stat(id: string, path: string): Promise<FileInfo>;
  /** With parents; an existing directory is success. */
  mkdir(id: string, path: string): Promise<void>;
  rename(id: string, from: string, to: string): Promise<void>;
  chmod(id: string, path: string, mode: number): Promise<void>;
  watch(
    id: string,
    path: string,
    options: { recursive?: boolean; signal: AbortSignal },
  ): AsyncIterable<WatchEvent>;
}

/**
 * Network of sandboxes. Of those whose mode is neither `filtered` nor `open` all but `get` throw `unsupported`. Open network's
 * rules are addresses and networks, and of its connections those that are denied are recorded.
 */
export interface NetworkApi {
  get(id: string): Promise<NetworkState>;
  /** Takes the place of all rules at once. Connections that the new ones don't allow are ended. */
  set(id: string, rules: NetworkRules, options?: ChangeOptions): Promise<SandboxInfo>;
  /** Adds rules and takes some away, in one step. Throws `invalid_request` for a rule to remove that is not there. */
  change(id: string, change: NetworkChange, options?: ChangeOptions): Promise<SandboxInfo>;
  /** What the rules say of a connection, without making it; a name is not looked up, and refused for open network. */
  explain(id: string, host: string, port: number): Promise<NetworkDecision>;
  /**
   * The last ones since the sandbox or its engine started, the oldest first; of open network those that deny. Equal ones are told
   * once. Throws `unsupported` where open network has none to tell because they can't be recorded.
   */
  decisions(id: string): Promise<NetworkDecision[]>;
}

/** Secrets of sandboxes with the network `filtered`; of others all of these throw `unsupported`. Values are never told. */
export interface SecretsApi {
  list(id: string): Promise<Secret[]>;
  /** Makes one, or takes its place at once: a new value alone keeps all else, and the placeholder. */
  put(id: string, name: string, secret: PutSecret, options?: ChangeOptions): Promise<SandboxInfo>;
  /** Throws `secret_not_found`. */
  remove(id: string, name: string, options?: ChangeOptions): Promise<SandboxInfo>;
}

/** Cloud credentials of sandboxes, which their programs ask for inside. Values are never told. */
export interface CredentialsApi {
  list(id: string): Promise<CredentialInfo[]>;
  /** In the place of those of the kind, for the next one who asks. Throws `port_in_use` when a program inside has the endpoint's port. */
  put(
    id: string,
    kind: CredentialKind,
    credentials: AnyCredentials,
    options?: ChangeOptions,
  ): Promise<SandboxInfo>;
  /** Throws `credentials_not_found`. */
  remove(id: string, kind: CredentialKind, options?: ChangeOptions): Promise<SandboxInfo>;
}

/** Ports of sandboxes that are reached through ports of the engine's machine, in every network mode. */
export interface PortsApi {
  list(id: string): Promise<PublishedPort[]>;
  /**
   * At once, or when the sandbox starts. Throws `port_in_use` when a program of the machine or another sandbox has it, or the
   * sandbox's own port is published already.
   */
  add(id: string, port: PortMapping): Promise<PublishedPort>;
  /** Its connections end. Throws `port_not_found`. */
  remove(id: string, port: PortChoice): Promise<void>;
}

/** What a server adds to `SandboxApi`. */
export interface ServerApi extends SandboxApi {
  /** A link to an HTTP server inside, for whoever has it. Default: good for an hour. */
  preview(id: string, port: number, request?: PreviewRequest): Promise<PreviewLink>;
}

/**
 * What Warren does, whichever way in. Engine and HTTP client both implement it, and `testApi()` runs against both.
 * `id` is a full id, a unique prefix of one of at least 4 characters, or a name. Every failure is a `WarrenError`.
 */
export interface SandboxApi {
  health(): Promise<Health>;
  version(): Promise<VersionInfo>;
  create(request: CreateSandbox, options?: CallOptions & ChangeOptions): Promise<SandboxInfo>;
  get(id: string): Promise<SandboxInfo>;
  /** Oldest first. */
  list(filter?: { labels?: Record<string, string> }): Promise<SandboxInfo[]>;
  start(id: string): Promise<SandboxInfo>;
  /** SIGTERM to everything inside, SIGKILL after `timeoutMs` (default 2000). Stopping a stopped sandbox is success. */
  stop(id: string, options?: { timeoutMs?: number }): Promise<SandboxInfo>;
  /** Waits until the sandbox has stopped, was lost or removed. At once when it does not run. */
  wait(id: string, options?: WaitOptions): Promise<WaitResult>;
  /** Output of the main command, of its last starts too, as far as it is kept. After its end and of a stopped one as well. */
  logs(id: string, options?: LogOptions): LogStream;
  /** Freezes every process where it is; memory and files stay. Pausing a paused sandbox is success. */
  pause(id: string): Promise<SandboxInfo>;
  /** Lets a paused sandbox go on. Resuming a running one is success. */
  resume(id: string): Promise<SandboxInfo>;
  /** New limits, of a running sandbox at once. What is absent stays; see `UpdateSandbox` for 0. */
  update(id: string, changes: UpdateSandbox): Promise<SandboxInfo>;
  /** Stops and forgets, with everything that was written. */
  remove(id: string): Promise<void>;
  /** New expiry in seconds from now; -1: never. */
  extend(id: string, timeoutS: number): Promise<SandboxInfo>;
  exec(id: string, request: ExecRequest, options?: CallOptions): Promise<ExecResult>;
  execStream(id: string, request: ExecStreamRequest, options?: CallOptions): Promise<ExecSession>;
  /**
   * What happens to sandboxes from the call on, until `signal` fires or the sandbox that was named is removed. A reader that falls
   * behind gets `too_large`.
   */
  events(options?: EventOptions): AsyncIterable<SandboxEvent>;
  readonly files: FilesApi;
  readonly images: ImagesApi;
  readonly network: NetworkApi;
  readonly ports: PortsApi;
  readonly secrets: SecretsApi;
  readonly credentials: CredentialsApi;
  readonly snapshots: SnapshotsApi;
  readonly volumes: VolumesApi;
  /**
   * Removes the stopped sandboxes of one runtime, and none that runs, is paused, being created or in error. One that can't
   * be removed keeps none of the others.
   */
  prune(options?: RuntimeChoice): Promise<PruneResult>;
  stats(id: string): Promise<SandboxStats>;
  systemStats(): Promise<SystemStats>;
}
