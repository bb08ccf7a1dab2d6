import type { CredentialInfo, Credentials } from "../contracts/credentials.ts";
import { WarrenError } from "../contracts/errors.ts";
import type {
  Capabilities,
  PreparedImage,
  Runtime,
  RuntimeLimits,
  RuntimeSpec,
} from "../contracts/runtime.ts";
import type { CreateSandbox, CreateSandboxParsed, Isolation, UpdateSandbox } from "../contracts/sandbox.ts";
import type { NewSecretParsed, Secret } from "../contracts/secrets.ts";
import type { EngineConfig } from "./config.ts";
import { admitCredentials } from "./credentials/admit.ts";
import { withMounts } from "./mounts.ts";
import { type AdmittedNetwork, admitNetwork } from "./network.ts";
import { fromNetworkPolicy } from "./network-policy.ts";
import { admitPorts } from "./ports/admit.ts";
import type { StoredPort } from "./record.ts";
import type { Runtimes } from "./runtimes.ts";
import { admitSecrets } from "./secrets/admit.ts";
import { tmpfsMounts } from "./tmpfs.ts";

const MIB = 1024 ** 2;

/**
 * Least limits with which a sandbox can start and answer: the guest, a supervisor and a command need that much. With gVisor
 * its kernel's own memory and threads count as the sandbox's.
 */
const minimum = {
  container: { memoryBytes: 4 * MIB, pids: 4, why: "" },
  gvisor: {
    memoryBytes: 64 * MIB,
    pids: 64,
    why: " with gvisor, whose kernel counts as the sandbox's own",
  },
} as const satisfies Record<Isolation, unknown>;
/** The kernel's shortest CFS quota is 1 ms of each 100 ms period. */
const MIN_CPU_NANO = 10_000_000;
/** More than any machine has; keeps the quota within 64 bits. */
const MAX_CPU_NANO = 100_000 * 1e9;
/** PID_MAX_LIMIT of the kernel. */
const MAX_PIDS = 4_194_304;

export interface Admitted {
  request: Omit<CreateSandboxParsed, "secrets" | "credentials">;
  secrets: NewSecretParsed[];
  /** Empty: none. */
  credentials: Credentials;
  runtime: Runtime;
  isolation: Isolation;
  readonlyRoot: boolean;
  tmpfs: RuntimeSpec["tmpfs"];
  mounts: RuntimeSpec["mounts"];
  network: AdmittedNetwork;
  ports: StoredPort[];
  limits: RuntimeLimits;
  /** Absent: never expires. */
  timeoutS: number | undefined;
  /** Of one that is restored. */
  origin?: Origin;
}

/** What a sandbox has of the snapshot that it is restored from, in the place of an image to look for and of values that are given. */
export interface Origin {
  snapshot: string;
  image: PreparedImage;
  secrets: Secret[];
  credentials: CredentialInfo[];
}

/** Which of the runtimes is meant: without a name the default one. Throws `unsupported`. */
export function chooseRuntime(
  name: string | undefined,
  { names, defaultName }: Pick<Runtimes, "names" | "defaultName">,
): string {
  if (name === undefined || names.includes(name)) return name ?? defaultName;
  throw unsupported(
    "runtime",
    `there is no runtime ${JSON.stringify(name)} here`,
    `choose one of: ${names.join(", ")}`,
  );
}

/**
 * Decides, before anything is made, whether a sandbox can be what is asked for. What can't be enforced is refused by
 * name, never dropped.
 * @throws WarrenError `invalid_request`, `unsupported`
 */
export function admit(request: CreateSandboxParsed, runtime: Runtime, config: EngineConfig): Admitted {
  refuseWhatIsNotThereYet(request);
  refuseLimitsTheRuntimeLacks(request, runtime);
  refuseWhatTheRuntimeLacks(request, runtime);
  if (request.readonly_fs === true && request.writable_rootfs === true) {
    throw refuse("writable_rootfs: contradicts readonly_fs");
  }
  const readonlyRoot = request.readonly_fs === true || request.writable_rootfs === false;
  if (readonlyRoot && !runtime.capabilities.readonlyRoot) {
    throw unsupported("readonly_fs", `the runtime ${runtime.name} has no read-only root`);
  }
  if (request.user !== undefined && !/^[\w.@$-]+(:[\w.@$-]+)?$/.test(request.user)) {
    throw refuse("user: must be a name, uid or uid:gid");
  }
  const isolation = request.isolation ?? "container";
  const network = admitNetwork(inOurWords(request, runtime, isolation), runtime);
  const { secrets = [], credentials = {}, ...rest } = request;
  admitSecrets(secrets, network.mode, request.env);
  const hasCredentials = Object.keys(credentials).length > 0;
  if (hasCredentials) admitCredentials(network.mode);
  const tmpfs = tmpfsMounts(request.storage?.tmpfs ?? [], readonlyRoot);
  return {
    request: rest,
    secrets,
    credentials,
    runtime,
    isolation,
    readonlyRoot,
    network,
    ports: admitPorts(request.ports ?? [], { mode: network.mode, hasCredentials }),
    ...withMounts(tmpfs, request.storage),
    limits: limitsFor(request, isolation, runtime.capabilities, config),
    timeoutS: effectiveTimeout(request.timeout, config.defaultTimeoutS),
  };
}

/** agh's policy in our words. */
function inOurWords(
  request: CreateSandboxParsed,
  { capabilities }: Runtime,
  isolation: Isolation,
): CreateSandboxParsed {
  const { network_policy: policy, network_mode, network, ports = [] } = request;
  if (policy === undefined) return request;
  if (network_mode !== undefined || network !== undefined) {
    throw refuse("network_policy: comes instead of network_mode and network");
  }
  const modes = capabilities.networkModes.filter(
    (mode) => isolation === "container" || mode === "none" || mode === "filtered",
  );
  return { ...request, ...fromNetworkPolicy(policy, { modes, ports }) };
}

/** Seconds until expiry; undefined: never. 0 and absent mean the default, a negative number never. */
function effectiveTimeout(asked: number | undefined, fallback: number): number | undefined {
  const timeout = asked === undefined || asked === 0 ? fallback : asked;
  return timeout < 0 ? undefined : timeout;
}

function refuseWhatIsNotThereYet(request: CreateSandboxParsed): void {
  if (request.storage?.s3) {
    throw unsupported("storage.s3", "S3 sync is not supported yet", "leave storage.s3 out");
  }
  if (request.disk_limit) {
    throw unsupported("disk_limit", "disk limits are not supported yet", "leave disk_limit out");
  }
}

/** What enforces each field. */
const controllers = { memory: "memory", memory_high: "memory", cpu: "cpu", pid_limit: "pids" } as const;

function refuseLimitsTheRuntimeLacks(request: UpdateSandbox, { name, capabilities }: Runtime): void {
  for (const field of ["memory", "memory_high", "cpu", "pid_limit"] as const) {
    if (request[field] && !capabilities.limits.includes(controllers[field])) {
      const { why, fix } = capabilities.limitsMissing ?? {};
      throw unsupported(
        field,
        why ?? `the runtime ${name} can't enforce it here`,
        fix === undefined ? "leave it out, or see warren doctor" : `leave it out, or: ${fix}`,
      );
    }
  }
}

function refuseWhatTheRuntimeLacks(request: CreateSandboxParsed, runtime: Runtime): void {
  const { capabilities } = runtime;
  if (request.storage?.tmpfs?.length && !capabilities.tmpfs) {
    throw unsupported("storage.tmpfs", `the runtime ${runtime.name} has no tmpfs`);
  }
  if (request.storage?.volumes?.length && !capabilities.volumes) {
    throw unsupported("storage.volumes", `the runtime ${runtime.name} has no volumes`);
  }
  if (request.storage?.binds?.length && !capabilities.binds) {
    throw unsupported("storage.binds", `the runtime ${runtime.name} can't mount directories of the host`);
  }
  const { isolation } = request;
  if (isolation !== undefined && !capabilities.isolation.includes(isolation)) {
    throw unsupported(
      "isolation",
      `the runtime ${runtime.name} can't do ${JSON.stringify(isolation)} here`,
      `it can do: ${capabilities.isolation.join(", ")}; \`warren doctor\` tells what is missing`,
    );
  }
  const kind = imageKind(request.image);
  if (!kind.some((k) => capabilities.images.includes(k))) {
    throw unsupported(
      "image",
      `the runtime ${runtime.name} takes no image of the kind ${kind.join(" or ")}`,
      `it takes: ${capabilities.images.join(", ")}`,
    );
  }
}

/** What a reference can name. Only the runtime can tell a directory from a tar: it looks. */
function imageKind(reference: string): Capabilities["images"][number][] {
  if (reference.includes("\0")) throw refuse("image: must not contain a NUL byte");
  if (reference === "host") return ["host"];
  return reference.startsWith("/") ? ["directory", "tar"] : ["oci"];
}

/**
 * The limits of a sandbox after a change: what the change leaves out stays.
 * @throws WarrenError `invalid_request`, `unsupported`
 */
export function changedLimits(
  changes: UpdateSandbox,
  { isolation, limits: before }: Pick<RuntimeSpec, "isolation" | "limits">,
  runtime: Runtime,
  config: EngineConfig,
): RuntimeLimits {
  refuseLimitsTheRuntimeLacks(changes, runtime);
  const asked = limitsFor(changes, isolation, runtime.capabilities, config);
  const { memory, memory_high: high = before.memoryHighBytes ?? 0, cpu, pid_limit: pids } = changes;
  const limits = {
    memoryBytes: memory === undefined ? before.memoryBytes : asked.memoryBytes,
    cpuNano: cpu === undefined ? before.cpuNano : asked.cpuNano,
    pids: pids === undefined ? before.pids : asked.pids,
  };
  const least = minimum[isolation];
  if (high !== 0 && high < least.memoryBytes) {
    throw refuse(`memory_high: must be at least ${least.memoryBytes / MIB} MiB${least.why}`);
  }
  if (high !== 0 && limits.memoryBytes !== 0 && high > limits.memoryBytes) {
    throw refuse(`memory_high: ${high} is above the limit of memory, ${limits.memoryBytes}`);
  }
  return high === 0 ? limits : { ...limits, memoryHighBytes: high };
}

function limitsFor(
  request: UpdateSandbox & Pick<CreateSandbox, "unlimited">,
  isolation: Isolation,
  capabilities: Capabilities,
  config: EngineConfig,
): RuntimeLimits {
  const least = minimum[isolation];
  const { memory = 0, cpu = 0, pid_limit: pids = 0 } = request;
  if (memory !== 0 && memory < least.memoryBytes) {
    throw refuse(`memory: must be at least ${least.memoryBytes / MIB} MiB${least.why}`);
  }
  if (cpu !== 0 && (cpu < MIN_CPU_NANO || cpu > MAX_CPU_NANO)) {
    throw refuse("cpu: must be at least 10000000 NanoCPUs, a hundredth of a core, and at most 100000 cores");
  }
  if (pids !== 0 && (pids < least.pids || pids > MAX_PIDS)) {
    throw refuse(`pid_limit: must be at least ${least.pids} and at most ${MAX_PIDS}${least.why}`);
  }
  const enforced = (field: keyof typeof controllers, value: number, atLeast = 0) => {
    if (request.unlimited || value <= 0) return 0;
    if (capabilities.limits.includes(controllers[field])) return Math.max(value, atLeast);
    if (capabilities.limitsMissing) throw unenforcedDefault(field, capabilities.limitsMissing);
    return 0;
  };
  return {
    memoryBytes: memory || enforced("memory", config.defaultMemoryBytes, least.memoryBytes),
    cpuNano: cpu || enforced("cpu", config.defaultCpuNano),
    pids: pids || enforced("pid_limit", config.defaultPids, least.pids),
  };
}

function unenforcedDefault(field: string, { why, fix }: { why: string; fix: string }): WarrenError {
  return unsupported(
    field,
    `each sandbox has a limit by default, and it can't be enforced: ${why}`,
    `--unlimited goes without (WARREN_UNLIMITED=1 always does; in the API, \`unlimited\`); or once, for real limits: ${fix}`,
  );
}

function refuse(message: string): WarrenError {
  return new WarrenError("invalid_request", message);
}

function unsupported(field: string, why: string, hint?: string): WarrenError {
  return new WarrenError("unsupported", `${field}: ${why}`, hint === undefined ? {} : { hint });
}
