import type { Duplex } from "node:stream";
import type { WarrenError } from "./errors.ts";
import type { BuildNetwork, ImageInfo, ImageProgress } from "./images.ts";
import type { Isolation, SandboxStats } from "./sandbox.ts";
import type { VolumeInfo, VolumeUsage } from "./volumes.ts";

export const networkModes = ["none", "filtered", "open", "host"] as const;
export type NetworkMode = (typeof networkModes)[number];

/** What a runtime can do, as data: shown by `warren doctor`, checked by the engine before anything is created. */
export interface Capabilities {
  networkModes: readonly NetworkMode[];
  /** Why others aren't, and what mends it, where something does. */
  networkMissing?: Partial<Record<NetworkMode, { why: string; fix?: string }>>;
  /**
   * In filtered network programs that know no proxy have their way out too: what they connect to is captured, and names are
   * answered inside. Of a runtime on another machine this is what is tried; each sandbox's guest knows. Never with isolation `gvisor`.
   */
  networkCapture: boolean;
  /** Limits that are enforced. A limit that is asked for and not listed is refused. */
  limits: readonly ("memory" | "cpu" | "pids" | "disk")[];
  /**
   * Why some aren't, and the command that mends it. The engine's own default limits are then refused too, instead of going
   * unenforced. Absent: all are, or it is in the runtime's nature that none is.
   */
  limitsMissing?: { why: string; fix: string };
  readonlyRoot: boolean;
  tmpfs: boolean;
  userNamespace: boolean;
  rootless: boolean;
  pause: boolean;
  snapshots: boolean;
  /** What a sandbox can ask for here, now. */
  isolation: readonly Isolation[];
  /** Kinds of image reference that `images.ensure` takes. */
  images: readonly ("host" | "directory" | "tar" | "oci")[];
  /** `images.store` is there. */
  imageStore: boolean;
  /** `volumes` is there, and specs may mount them. */
  volumes: boolean;
  /** Specs may mount directories of the host. */
  binds: boolean;
}

export interface ProbeFinding {
  level: "ok" | "warning" | "error";
  /** One sentence. */
  message: string;
  /** The command that mends it. */
  fix?: string;
}

export interface ProbeReport {
  runtime: string;
  /** True when a sandbox can be created with it now. */
  usable: boolean;
  /** Version of the program underneath, such as `crun 1.8.1`. */
  version?: string;
  findings: ProbeFinding[];
}

/** A root filesystem that is ready to be used, with the image's own defaults. */
export interface PreparedImage {
  /** Stable identity: `host`, `dir:<path>`, `sha256:…`. Stored with the sandbox. */
  id: string;
  /** The reference as the user gave it. */
  reference: string;
  env: Record<string, string>;
  workdir?: string;
  user?: string;
  cmd?: string[];
}

/** All that a runtime needs to make one sandbox. Every default is filled in; the engine stores it whole. */
export interface RuntimeSpec {
  id: string;
  image: PreparedImage;
  /** Complete environment of every command. */
  env: Record<string, string>;
  workdir: string;
  /** Main command; the guest starts it. */
  cmd?: string[];
  user?: string;
  /** A file inside that the main command waits for, for a while: the engine puts it there after the start. */
  mainAfter?: string;
  hostname: string;
  labels: Record<string, string>;
  network: NetworkMode;
  /** Of `open` only. */
  reach?: NetworkReach;
  isolation: Isolation;
  readonlyRoot: boolean;
  /** `sizeBytes` each; `exec` false mounts noexec. Always nosuid and nodev. */
  tmpfs: { path: string; sizeBytes: number; readonly: boolean; exec: boolean; mode: number }[];
  /** In the order in which they are mounted. Always nosuid and nodev. */
  mounts: RuntimeMount[];
  limits: RuntimeLimits;
}

/**
 * What a sandbox with open network reaches. Beside these a runtime denies the networks that its machine is in, and allows the name
 * server's port.
 */
export interface NetworkReach {
  /**
   * Looked at in this order, before anything else: `+` (allowed) or `-`, ADDRESS/BITS, and `@FROM-TO` where only these TCP and
   * UDP ports are meant.
   */
  rules: string[];
  /** Networks that are denied but for these rules. */
  internal: string[];
}

/**
 * What of outside a sandbox sees: a volume by its name, or a directory or file of the runtime's machine by its absolute path. Ids
 * of files are the same on both sides, so that a project stays its owner's.
 */
export interface RuntimeMount {
  type: "volume" | "bind";
  source: string;
  /** Absolute path inside. */
  target: string;
  readonly: boolean;
}

/** 0: no limit. Memory in bytes with swap included, cpu in NanoCPUs. */
export interface RuntimeLimits {
  memoryBytes: number;
  /** Above it the kernel takes memory back and slows the sandbox down, and kills nothing. Absent: none. */
  memoryHighBytes?: number;
  cpuNano: number;
  pids: number;
}

export interface RuntimeSandbox {
  id: string;
  /** What the kernel says now, not what was last asked for. */
  state: "created" | "running" | "paused" | "stopped";
  /** Host pid of the guest while it runs. */
  pid?: number;
  /** Of a stopped one, where the runtime remembers it: the main command's exit code, 128+n for signal n. */
  exitCode?: number;
}

export interface ProgressOptions {
  signal?: AbortSignal;
  onProgress?: (progress: ImageProgress) => void;
}

export interface BuildOptions extends ProgressOptions {
  tag: string;
  /** An uncompressed tar with all that the build may read. */
  context: AsyncIterable<Uint8Array>;
  /** Inside the context. */
  dockerfile?: string;
  buildArgs?: Readonly<Record<string, string>>;
  target?: string;
  noCache?: boolean;
  /** Default: `none`. */
  network?: BuildNetwork;
  /** With `open`, for a builder whose network is a sandbox's. */
  reach?: NetworkReach;
}

/** Images by name. Throws `image_pull_failed`, `image_build_failed`, each with the last words of what failed. */
export interface ImageStore {
  /** Whether it is here, and what it is. Asks no registry. */
  inspect(reference: string): Promise<ImageInfo | undefined>;
  /** Fetches it, newer than what is here where there is a newer one. */
  pull(reference: string, options?: ProgressOptions): Promise<ImageInfo>;
  /** Aborting the signal ends the build; nothing of it gets the tag then. */
  build(options: BuildOptions): Promise<ImageInfo>;
  /** Gone already is success. Throws `in_use` while a sandbox is made of it. */
  remove(reference: string): Promise<void>;
  /** Those whose reference begins with `prefix`, each once for each of its names. */
  list(prefix: string): Promise<ImageInfo[]>;
}

/** Named storage. Every volume that a driver makes is labelled ours; others are neither listed nor touched. */
export interface VolumeStore {
  /** There already is success; its labels stay as they are then. */
  create(name: string, labels: Readonly<Record<string, string>>): Promise<VolumeInfo>;
  inspect(name: string): Promise<VolumeInfo | undefined>;
  list(prefix: string): Promise<VolumeInfo[]>;
  /**
   * Gone already is success. Throws `in_use` while a sandbox of ours has it mounted in its spec, or anything else uses it. With
   * `force` the sandboxes of ours that have it are removed first; what isn't ours still makes it `in_use`.
   */
  remove(name: string, options?: { force?: boolean }): Promise<void>;
  diskUsage(prefix: string): Promise<VolumeUsage[]>;
}

export interface RuntimeSnapshot {
  id: string;
  /** What it takes of the disk beyond what it was made of, in bytes. */
  sizeBytes: number;
}

/**
 * Snapshots: a sandbox's root filesystem as it was at one instant, kept as an image. What lies in tmpfs, volumes and binds is not in
 * it, nor are processes, nor anything that the spec says. Every snapshot is labelled ours; `id` is the engine's choice.
 */
export interface SnapshotStore {
  /**
   * Of a sandbox that runs, is paused or has stopped, and that goes on as it was. Resolves with the image that `create` takes, which
   * has the defaults of the image that the sandbox was made of and a copy of all that it needs: the sandbox may go. Nothing inside
   * runs while it is taken. A failed or aborted one leaves nothing behind. Throws `unsupported` where what runs can't be held still.
   */
  create(
    sandboxId: string,
    id: string,
    options?: { signal?: AbortSignal },
  ): Promise<RuntimeSnapshot & { image: PreparedImage }>;
  /** Everything of ours that exists, half-made ones included. */
  list(): Promise<RuntimeSnapshot[]>;
  /** Gone already is success. Sandboxes that were made of it, and snapshots of those, stay whole. */
  remove(id: string): Promise<void>;
}

/** What a program in a sandbox with open network wanted and did not get. */
export interface Denial {
  /** What `reachItems` says; or there are as many `connections` as there may be. */
  cause: "rules" | "connections";
  protocol: "tcp" | "udp" | "icmp";
  address: string;
  /** 0 where the protocol has none. */
  port: number;
}

export interface DenialWatch extends Disposable {
  /** Resolves when all that was denied before the call has been told, or the watch is over. */
  settle(): Promise<void>;
  /** Resolves when it is over: with the failure that was the reason, if the sandbox's end or a call was not. */
  readonly ended: Promise<WarrenError | undefined>;
}

/** Numbers a runtime can read without asking the guest. */
export interface RuntimeStats extends Omit<SandboxStats, "cpu_percent" | "memory_percent" | "timestamp"> {
  /** CPU time used since the sandbox started, in nanoseconds. */
  cpuTotalNs: number;
  /** Processes that the kernel has killed for memory in this sandbox. */
  oomKills: number;
}

/**
 * A driver that owns sandbox lifecycles. What happens inside a sandbox goes through the guest that `connect` reaches,
 * so a driver knows nothing of exec or files.
 *
 * `create`, `start`, `stop`, `pause`, `resume`, `updateLimits`, `updateReach`, `remove` and `inspect` of one id come one at a time; `connect`, `stats`, `oomKills`, `reachItems`, `watchDenied` and `list` at
 * any moment; calls for different ids come side by side. Every host object that a driver
 * makes is labelled with the state directory's owner id and the sandbox id. Failures are `WarrenError`s: of every call
 * `runtime_unavailable` when what it drives (a daemon, say) can't be asked, which says nothing about a sandbox. It then works
 * again, with the same object, when that is back. That a sandbox is gone is said by `undefined` alone.
 * Not promised: that a sandbox which was running is still running; callers ask `inspect`.
 */
export interface Runtime {
  readonly name: string;
  readonly capabilities: Capabilities;
  probe(): Promise<ProbeReport>;
  readonly images: {
    /** Makes the image usable, pulling or unpacking where needed. Throws `image_not_found`, `image_invalid`, `image_pull_failed`. */
    ensure(reference: string, options?: ProgressOptions): Promise<PreparedImage>;
    /** Absent without the capability `imageStore`. */
    readonly store?: ImageStore;
  };
  /** Absent without the capability `volumes`. */
  readonly volumes?: VolumeStore;
  /** Absent without the capability `snapshots`. */
  readonly snapshots?: SnapshotStore;
  /** Makes all that is needed on disk. Nothing runs afterwards. A failed create leaves nothing behind. */
  create(spec: RuntimeSpec, options?: { signal?: AbortSignal }): Promise<void>;
  /** Runs the guest; resolves when it answers. A failed start leaves the sandbox stopped and whole. */
  start(id: string, options?: { signal?: AbortSignal }): Promise<{ pid: number }>;
  /**
   * Ends everything inside, gracefully for at most `timeoutMs` (0: at once). Files stay. Stopped already is success.
   * A paused one goes on for its end.
   */
  stop(id: string, options: { timeoutMs: number }): Promise<void>;
  /**
   * Freezes all processes; none runs any more when it resolves. What can't be frozen in time goes on as before.
   * Throws `sandbox_wrong_state` when it does not run, `runtime_failed`, and `unsupported` without the capability.
   */
  pause(id: string): Promise<void>;
  /** Thaws them. Running already is success. Throws as `pause`. */
  resume(id: string): Promise<void>;
  /**
   * New limits, kept for later starts, and of a running sandbox in force when it resolves. When it throws, the old ones
   * hold. Throws `unsupported` for what can't be enforced, `sandbox_wrong_state` for less memory than is in use.
   */
  updateLimits(id: string, limits: RuntimeLimits): Promise<void>;
  /**
   * What a sandbox with open network reaches from now on, kept for later starts, and of a running or paused one in force when it
   * resolves: for open connections too. When it throws, what was before holds. Throws `unsupported` where it can't be changed.
   */
  updateReach(id: string, reach: NetworkReach): Promise<void>;
  /** All that decides what a sandbox with open network reaches, in this order, as `NetworkReach.rules` are written. */
  reachItems(id: string): Promise<string[]>;
  /**
   * Tells what a sandbox with open network, which runs, is denied from now on, until the sandbox or the watch ends. At least some of
   * it: what comes too fast is not told. It keeps no process from ending, and enforces nothing.
   * Throws `unsupported` where it can't be told, `sandbox_wrong_state`, `runtime_failed`.
   */
  watchDenied(id: string, onDenied: (denial: Denial) => void): Promise<DenialWatch>;
  /** Ends and deletes everything of this sandbox. Gone already is success. */
  remove(id: string): Promise<void>;
  inspect(id: string): Promise<RuntimeSandbox | undefined>;
  /** Everything of ours that exists, half-made ones included. */
  list(): Promise<RuntimeSandbox[]>;
  /** A new connection to the sandbox's guest. Throws `guest_failed` when nobody answers. */
  connect(id: string): Promise<Duplex>;
  /** Throws `sandbox_wrong_state` when it does not run. */
  stats(id: string): Promise<RuntimeStats>;
  /** OOM kills so far, cheaply; undefined when it can't be known. */
  oomKills(id: string): number | undefined;
  /** Lets go of helpers. Sandboxes keep running. */
  close(): Promise<void>;
}
