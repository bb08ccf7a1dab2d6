import { z } from "zod";
import { isolations, NO_EXPIRY } from "./constants.ts";
import { CredentialInfo, Credentials } from "./credentials.ts";
import { NetworkPolicy, NetworkRules } from "./network.ts";
import { PortMapping, PublishedPort } from "./ports.ts";
import { NewSecret, Secret } from "./secrets.ts";
import { SshAgent } from "./ssh-agent.ts";
import { MountInfo, StorageConfig } from "./storage.ts";

/** den's four states and `paused`. `error` is a sandbox that failed to start or was lost. */
export const sandboxStatuses = ["creating", "running", "paused", "stopped", "error"] as const;
export const SandboxStatus = z.enum(sandboxStatuses).meta({ id: "SandboxStatus" });
export type SandboxStatus = z.infer<typeof SandboxStatus>;

/** A string that the kernel can take as an argument or variable: NUL ends a C string. */
export const CString = z.string().refine((s) => !s.includes("\0"), "must not contain a NUL byte");

export const EnvMap = z
  .record(z.string().regex(/^[^=\0]+$/, "a variable name has no '=' and no NUL byte"), CString)
  .meta({ description: "Environment variables" });

/** An absolute path inside a sandbox. 4096 bytes is the kernel's PATH_MAX. */
export const GuestPath = CString.refine((p) => p.startsWith("/"), "absolute path required").refine(
  (p) => new TextEncoder().encode(p).length < 4096,
  "path is longer than 4095 bytes",
);

/** A runtime by its name; absent: the engine's default one, save where something is listed. */
export const RuntimeChoice = z.object({
  runtime: z.string().max(32).optional().meta({ description: "Runtime driver; default: the server's" }),
});
export type RuntimeChoice = z.infer<typeof RuntimeChoice>;

/** Readable names: DNS label rules, so that a name can become a host name. */
export const SandboxName = z
  .string()
  .regex(/^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$/, "a name is 1-63 of a-z, 0-9 and '-', and starts with a letter");

export const Isolation = z.enum(isolations).meta({ id: "Isolation" });
export type Isolation = z.infer<typeof Isolation>;

/** What `POST /sandboxes` takes: den's `SandboxConfig` and Warren's additions. */
export const CreateSandbox = z
  .object({
    image: z.string().min(1).max(4096).default("host").meta({
      description:
        "`host`, an absolute path of a root filesystem directory or tar, or an OCI image reference such as `debian:12`",
    }),
    name: SandboxName.optional().meta({ description: "Unique among live sandboxes" }),
    env: EnvMap.optional(),
    workdir: GuestPath.optional().meta({ description: "Working directory of commands; made if missing" }),
    user: CString.max(256)
      .optional()
      .meta({ description: "`name`, `uid` or `uid:gid`; default: the image's, else root" }),
    cmd: z.array(CString).min(1).max(4096).optional().meta({
      description:
        "Main command. The sandbox stops when it exits. Without one the sandbox idles until it is stopped",
    }),
    timeout: z.number().int().max(315_360_000).optional().meta({
      description: "Seconds until the sandbox expires; 0 or absent: the server's default; negative: never",
    }),
    cpu: z
      .number()
      .int()
      .nonnegative()
      .optional()
      .meta({ description: "NanoCPUs: 1e9 is one core. 0: no limit" }),
    memory: z
      .number()
      .int()
      .nonnegative()
      .optional()
      .meta({ description: "Bytes, swap included. 0: the server's default" }),
    pid_limit: z
      .number()
      .int()
      .nonnegative()
      .optional()
      .meta({ description: "Processes and threads. 0: the server's default" }),
    unlimited: z.boolean().optional().meta({
      description: "True: limits that this request leaves out are none, instead of the server's defaults",
    }),
    disk_limit: z.number().int().nonnegative().optional().meta({ description: "Bytes" }),
    readonly_fs: z
      .boolean()
      .optional()
      .meta({ description: "Root filesystem is read-only; /tmp, /run, /var/tmp and home are tmpfs" }),
    writable_rootfs: z.boolean().optional().meta({ description: "den's word; false means readonly_fs" }),
    network_mode: z.string().max(32).optional().meta({
      description: "`none` is the default; `filtered` is the default where `network` has rules",
    }),
    network_policy: NetworkPolicy.optional().meta({
      description: "agh's word for it, instead of `network_mode` and `network`",
    }),
    network: NetworkRules.optional().meta({ description: "Whom a sandbox with filtered network may reach" }),
    ports: z
      .array(PortMapping)
      .max(256)
      .optional()
      .meta({ description: "Ports to publish; in every network mode" }),
    secrets: z.array(NewSecret).max(32).optional().meta({
      description:
        "Added by the engine's proxy to requests to their hosts; inside there is a placeholder of each",
    }),
    credentials: Credentials.optional().meta({
      description:
        "Of clouds, which programs inside ask for at an endpoint of their own; in every network mode but `host`",
    }),
    ssh_agent: SshAgent.optional().meta({
      description: "Programs inside may have it sign, in every network mode; they can't change it",
    }),
    labels: z.record(CString.max(256), CString.max(4096)).optional(),
    storage: StorageConfig.optional(),
    ...RuntimeChoice.shape,
    isolation: Isolation.optional().meta({
      description:
        "`container` is the default: the host's kernel answers system calls. `gvisor`: a kernel in user space does",
    }),
  })
  .meta({ id: "CreateSandbox" });
export type CreateSandbox = z.input<typeof CreateSandbox>;
export type CreateSandboxParsed = z.output<typeof CreateSandbox>;

/** What `PATCH /sandboxes/{id}` takes: new limits. What is absent stays as it is. */
export const UpdateSandbox = z
  .object({
    memory: z
      .number()
      .int()
      .nonnegative()
      .optional()
      .meta({ description: "Bytes, swap included. 0: the server's default" }),
    memory_high: z.number().int().nonnegative().optional().meta({
      description: "Soft limit in bytes: above it memory is taken back, and nothing is killed. 0: none",
    }),
    cpu: z
      .number()
      .int()
      .nonnegative()
      .optional()
      .meta({ description: "NanoCPUs: 1e9 is one core. 0: the server's default" }),
    pid_limit: z
      .number()
      .int()
      .nonnegative()
      .optional()
      .meta({ description: "Processes and threads. 0: the server's default" }),
  })
  .refine((changes) => Object.values(changes).some((value) => value !== undefined), {
    error: "at least one of memory, memory_high, cpu and pid_limit is needed",
  })
  .meta({ id: "UpdateSandbox" });
export type UpdateSandbox = z.infer<typeof UpdateSandbox>;

/** A sandbox on the wire. den's fields first. */
export const SandboxInfo = z
  .object({
    id: z.string(),
    image: z.string(),
    status: SandboxStatus,
    created_at: z.string(),
    expires_at: z.string().meta({ description: `RFC 3339; ${NO_EXPIRY} when it never expires` }),
    ports: z.array(PublishedPort).optional(),
    ip: z.string().optional(),
    name: z.string().optional(),
    labels: z.record(z.string(), z.string()).optional(),
    runtime: z.string(),
    started_at: z.string().optional(),
    stopped_at: z.string().optional(),
    pid: z.number().int().optional().meta({ description: "Host pid of the sandbox's first process" }),
    exit_code: z
      .number()
      .int()
      .optional()
      .meta({ description: "Of the main command, once it has exited; 128+n for signal n" }),
    oom_killed: z.boolean().optional(),
    error: z.string().optional().meta({ description: "Why the status is `error`, or why it stopped" }),
    memory: z.number().int().optional(),
    memory_high: z.number().int().optional(),
    cpu: z.number().int().optional(),
    pid_limit: z.number().int().optional(),
    readonly_fs: z.boolean().optional(),
    network_mode: z.string().optional(),
    network: NetworkRules.optional(),
    secrets: z.array(Secret).optional(),
    credentials: z.array(CredentialInfo).optional(),
    ssh_agent: SshAgent.optional(),
    isolation: Isolation.optional(),
    workdir: z.string().optional(),
    user: z.string().optional(),
    cmd: z.array(z.string()).optional(),
    mounts: z.array(MountInfo).optional(),
    snapshot_id: z.string().optional().meta({ description: "The snapshot that it was restored from" }),
  })
  .meta({ id: "Sandbox" });
export type SandboxInfo = z.infer<typeof SandboxInfo>;

/** What `POST /prune` did. */
export const PruneResult = z
  .object({
    removed: z.array(z.string()).meta({ description: "Ids of the sandboxes that are gone" }),
    failed: z
      .array(z.object({ id: z.string(), error: z.string() }))
      .meta({ description: "Those that could not be removed, and why" }),
  })
  .meta({ id: "PruneResult" });
export type PruneResult = z.infer<typeof PruneResult>;

/** New expiry, counted from now. */
export const ExtendRequest = z
  .object({
    timeout: z
      .number()
      .int()
      .min(-1)
      .max(315_360_000)
      .meta({ description: "Seconds from now; -1: never expires" }),
  })
  .meta({ id: "ExtendRequest" });
export type ExtendRequest = z.infer<typeof ExtendRequest>;

/** den's one-shot statistics. */
export const SandboxStats = z
  .object({
    cpu_percent: z
      .number()
      .meta({ description: "Of one core, over the time since the last reading (at least 100 ms)" }),
    memory_usage: z.number().int().meta({ description: "Bytes, page cache that can be dropped excluded" }),
    memory_limit: z.number().int().meta({ description: "Bytes; 0: no limit" }),
    memory_percent: z.number(),
    network_rx: z.number().int(),
    network_tx: z.number().int(),
    disk_read: z.number().int(),
    disk_write: z.number().int(),
    pid_count: z.number().int(),
    timestamp: z.string(),
  })
  .meta({ id: "SandboxStats" });
export type SandboxStats = z.infer<typeof SandboxStats>;

export const SystemStats = z
  .object({
    total_sandboxes: z.number().int(),
    running_sandboxes: z.number().int(),
    stopped_sandboxes: z.number().int(),
    total_snapshots: z.number().int(),
  })
  .meta({ id: "SystemStats" });
export type SystemStats = z.infer<typeof SystemStats>;
