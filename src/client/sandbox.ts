import type { SandboxApi, ServerApi, WaitOptions, WaitResult } from "../contracts/api.ts";
import type { AnyCredentials, CredentialKind } from "../contracts/credentials.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { LogOptions, LogStream } from "../contracts/logs.ts";
import type { PortChoice, PortMapping, PreviewLink, PublishedPort } from "../contracts/ports.ts";
import type {
  CreateSandbox,
  Isolation,
  SandboxInfo,
  SandboxStats,
  SandboxStatus,
  UpdateSandbox,
} from "../contracts/sandbox.ts";
import type { PutSecret } from "../contracts/secrets.ts";
import {
  CommandResult,
  type ExecOptions,
  execRequest,
  RunningCommand,
  type StreamOptions,
} from "./command.ts";
import { SandboxFiles } from "./files.ts";

/** Which server. */
export interface ConnectOptions {
  client?: SandboxApi;
  url?: string;
  apiKey?: string;
}

export interface HandleOptions {
  /** Leave the sandbox alone when the handle is disposed. Default: false for one made here, true for one found. */
  keep?: boolean;
}

export interface CreateOptions extends HandleOptions {
  /** `host`, a directory, a tar, or a reference such as `debian:12`. */
  image?: string;
  name?: string;
  env?: Record<string, string>;
  workdir?: string;
  user?: string;
  /** Main command; the sandbox stops when it exits. */
  cmd?: string[];
  /** Seconds until the sandbox expires; negative: never; absent: the server's default. */
  timeoutS?: number;
  /** Cores, such as 0.5. */
  cpus?: number;
  /** Bytes, or a size such as `512m`. */
  memory?: number | string;
  /** Processes and threads. */
  pidLimit?: number;
  /** Bytes, or a size such as `10g`. */
  disk?: number | string;
  /** Limits that are left out are none, instead of the server's defaults. */
  unlimited?: boolean;
  readonlyFs?: boolean;
  networkMode?: string;
  /** Whom a sandbox with filtered network may reach. */
  network?: CreateSandbox["network"];
  /** agh's word for it, instead of `networkMode` and `network`. */
  networkPolicy?: CreateSandbox["network_policy"];
  /** Added by the engine to requests to their hosts; inside there is only a placeholder of each. */
  secrets?: CreateSandbox["secrets"];
  /** Of clouds, where their SDKs look for them inside. */
  credentials?: CreateSandbox["credentials"];
  /** Of the engine's machine: programs inside may have it sign, and not change it. */
  sshAgent?: CreateSandbox["ssh_agent"];
  ports?: CreateSandbox["ports"];
  labels?: Record<string, string>;
  storage?: CreateSandbox["storage"];
  runtime?: string;
  /** `gvisor`: a kernel in user space answers system calls, not the host's. */
  isolation?: Isolation;
  signal?: AbortSignal;
}

export interface UpdateOptions {
  /** Bytes, or a size such as `512m`. */
  memory?: number | string;
  /** Soft limit: above it memory is taken back, and nothing is killed. 0: none. */
  memoryHigh?: number | string;
  /** Cores, such as 0.5. 0: the server's default. */
  cpus?: number;
  /** Processes and threads. */
  pidLimit?: number;
}

export interface SandboxEntry {
  /** Creates and starts a sandbox; `await using` removes it at the end of the scope. */
  create(options?: CreateOptions, connection?: ConnectOptions): Promise<SandboxHandle>;
  /** A sandbox that exists, by id, unique prefix of one, or name. */
  connect(id: string, options?: ConnectOptions & HandleOptions): Promise<SandboxHandle>;
  list(options?: ConnectOptions & { labels?: Record<string, string> }): Promise<SandboxInfo[]>;
}

/** `Sandbox` of one platform: `connect` knows its default server. */
export function sandboxEntry(connect: (options: ConnectOptions) => SandboxApi): SandboxEntry {
  return {
    async create(options = {}, connection = {}) {
      const { keep = false, signal, ...rest } = options;
      const api = connect(connection);
      const info = await api.create(createRequest(rest), signal ? { signal } : undefined);
      return new SandboxHandle(api, info, { keep });
    },
    async connect(id, { keep = true, ...connection } = {}) {
      const api = connect(connection);
      return new SandboxHandle(api, await api.get(id), { keep });
    },
    async list({ labels, ...connection } = {}) {
      return await connect(connection).list(labels ? { labels } : undefined);
    },
  };
}

/** One sandbox. */
export class SandboxHandle implements AsyncDisposable {
  readonly id: string;
  readonly files: SandboxFiles;
  readonly #api: SandboxApi;
  readonly #keep: boolean;
  #info: SandboxInfo;

  constructor(api: SandboxApi, info: SandboxInfo, { keep = false }: HandleOptions = {}) {
    this.#api = api;
    this.#info = info;
    this.#keep = keep;
    this.id = info.id;
    this.files = new SandboxFiles(api, info.id);
  }

  get name(): string | undefined {
    return this.#info.name;
  }

  /** As last heard of; `info()` asks. */
  get status(): SandboxStatus {
    return this.#info.status;
  }

  async info(): Promise<SandboxInfo> {
    this.#info = await this.#api.get(this.id);
    return this.#info;
  }

  /** Runs a command to its end. An exit code other than 0 is a result, unless `check` is set. */
  async exec(argv: readonly string[], options: ExecOptions = {}): Promise<CommandResult> {
    const { signal, check } = options;
    const answer = await this.#api.exec(this.id, execRequest(argv, options), signal ? { signal } : undefined);
    const result = new CommandResult(argv, answer);
    return check ? result.check() : result;
  }

  /** Starts a command whose output is read while it runs. A failure to start is told by iterating and by `exit`. */
  stream(argv: readonly string[], options: StreamOptions = {}): RunningCommand {
    return new RunningCommand(this.#api, this.id, argv, options);
  }

  async start(): Promise<SandboxInfo> {
    this.#info = await this.#api.start(this.id);
    return this.#info;
  }

  async stop(options?: { timeoutMs?: number }): Promise<SandboxInfo> {
    this.#info = await this.#api.stop(this.id, options);
    return this.#info;
  }

  /** Output of the main command: what is kept, and with `follow` what comes. Leaving the loop ends it. */
  logs(options?: LogOptions): LogStream {
    return this.#api.logs(this.id, options);
  }

  /** Waits until it no longer runs: how its main command ended. */
  wait(options?: WaitOptions): Promise<WaitResult> {
    return this.#api.wait(this.id, options);
  }

  /** Freezes every process where it is. */
  async pause(): Promise<SandboxInfo> {
    this.#info = await this.#api.pause(this.id);
    return this.#info;
  }

  async resume(): Promise<SandboxInfo> {
    this.#info = await this.#api.resume(this.id);
    return this.#info;
  }

  /** New limits, in force at once. What is absent stays. */
  async update(changes: UpdateOptions): Promise<SandboxInfo> {
    this.#info = await this.#api.update(this.id, updateRequest(changes));
    return this.#info;
  }

  /** New expiry in seconds from now; -1: never. */
  async extend(timeoutS: number): Promise<SandboxInfo> {
    this.#info = await this.#api.extend(this.id, timeoutS);
    return this.#info;
  }

  stats(): Promise<SandboxStats> {
    return this.#api.stats(this.id);
  }

  /** Publishes a port: by its number inside, on a host port of 127.0.0.1 that is chosen, or as the mapping says. */
  publish(port: number | PortMapping): Promise<PublishedPort> {
    return this.#api.ports.add(this.id, typeof port === "number" ? { sandbox_port: port } : port);
  }

  /** What was published of a port inside is not any more; its connections end. */
  unpublish(sandboxPort: number, protocol?: PortChoice["protocol"]): Promise<void> {
    return this.#api.ports.remove(this.id, { sandboxPort, ...(protocol === undefined ? {} : { protocol }) });
  }

  /** A link to an HTTP server inside, for whoever has it, until it expires. */
  async preview(port: number, { expiresInS }: { expiresInS?: number } = {}): Promise<PreviewLink> {
    if (!("preview" in this.#api)) {
      throw new WarrenError("unsupported", "an engine without a server gives no links");
    }
    const server = this.#api as ServerApi;
    return server.preview(this.id, port, expiresInS === undefined ? {} : { expires_in: expiresInS });
  }

  ports(): Promise<PublishedPort[]> {
    return this.#api.ports.list(this.id);
  }

  /** Makes a secret or takes its place, at once: a new value alone keeps all else. */
  async setSecret(name: string, secret: PutSecret): Promise<SandboxInfo> {
    this.#info = await this.#api.secrets.put(this.id, name, secret);
    return this.#info;
  }

  async removeSecret(name: string): Promise<SandboxInfo> {
    this.#info = await this.#api.secrets.remove(this.id, name);
    return this.#info;
  }

  /** Cloud credentials in the place of those of the kind, for the next one who asks inside. */
  async setCredentials(kind: CredentialKind, credentials: AnyCredentials): Promise<SandboxInfo> {
    this.#info = await this.#api.credentials.put(this.id, kind, credentials);
    return this.#info;
  }

  async removeCredentials(kind: CredentialKind): Promise<SandboxInfo> {
    this.#info = await this.#api.credentials.remove(this.id, kind);
    return this.#info;
  }

  /** Stops and forgets the sandbox with everything in it. */
  remove(): Promise<void> {
    return this.#api.remove(this.id);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#keep) return;
    try {
      await this.remove();
    } catch (error) {
      // Removed or expired meanwhile: what is wanted is so.
      if (!(error instanceof WarrenError && error.code === "sandbox_not_found")) throw error;
    }
  }
}

const NANO_CPUS = 1e9;

function createRequest(options: Omit<CreateOptions, "keep" | "signal">): CreateSandbox {
  const {
    timeoutS,
    cpus,
    memory,
    disk,
    pidLimit,
    readonlyFs,
    networkMode,
    networkPolicy,
    sshAgent,
    ...same
  } = options;
  const request: CreateSandbox = {
    ...same,
    timeout: timeoutS,
    cpu: cpus === undefined ? undefined : Math.round(cpus * NANO_CPUS),
    memory: bytes(memory),
    disk_limit: bytes(disk),
    pid_limit: pidLimit,
    readonly_fs: readonlyFs,
    network_mode: networkMode,
    network_policy: networkPolicy,
    ssh_agent: sshAgent,
  };
  return Object.fromEntries(
    Object.entries(request).filter(([, value]) => value !== undefined),
  ) as CreateSandbox;
}

function updateRequest({ memory, memoryHigh, cpus, pidLimit }: UpdateOptions): UpdateSandbox {
  const request = {
    memory: bytes(memory),
    memory_high: bytes(memoryHigh),
    cpu: cpus === undefined ? undefined : Math.round(cpus * NANO_CPUS),
    pid_limit: pidLimit,
  };
  return Object.fromEntries(
    Object.entries(request).filter(([, value]) => value !== undefined),
  ) as UpdateSandbox;
}

/** Bytes of a size with a binary unit: `512m`, `1.5g`, `64 MiB`. */
function bytes(size: number | string | undefined): number | undefined {
  if (typeof size !== "string") return size;
  const match = /^(\d+(?:\.\d+)?) ?(?:([kmgt])(?:i?b)?|b)?$/i.exec(size.trim());
  const power = ["", "k", "m", "g", "t"].indexOf((match?.[2] ?? "").toLowerCase());
  const value = Math.round(Number(match?.[1]) * 1024 ** power);
  if (Number.isSafeInteger(value)) return value;
  throw new WarrenError("invalid_request", `${JSON.stringify(size)} is not a size`, {
    hint: "write it as a number of bytes, or with a unit as in 512m or 1.5g",
  });
}
