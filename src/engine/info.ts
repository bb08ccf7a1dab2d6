import { NO_EXPIRY } from "../contracts/constants.ts";
import type { PublishedPort } from "../contracts/ports.ts";
import type { RuntimeMount } from "../contracts/runtime.ts";
import type { SandboxInfo } from "../contracts/sandbox.ts";
import type { MountInfo } from "../contracts/storage.ts";
import { isAlive, type SandboxRecord, type StoredPort } from "./record.ts";
import { wireStatus } from "./states.ts";

/** A record as clients see it. The environment is left out: it holds secrets. */
export function sandboxInfo(record: SandboxRecord): SandboxInfo {
  const { request, spec } = record;
  const time = (millis: number | undefined) =>
    millis === undefined ? undefined : new Date(millis).toISOString();
  return dropAbsent({
    id: record.id,
    image: request.image,
    status: wireStatus[record.state],
    created_at: new Date(record.createdAt).toISOString(),
    expires_at: time(record.expiresAt) ?? NO_EXPIRY,
    ports: record.ports?.length ? record.ports.map((port) => publishedPort(record, port)) : undefined,
    name: record.name,
    labels: request.labels,
    runtime: record.runtime,
    started_at: time(record.startedAt),
    stopped_at: time(record.stoppedAt),
    pid: record.pid,
    exit_code: record.exitCode,
    oom_killed: record.oomKilled,
    error: record.error,
    memory: spec?.limits.memoryBytes || undefined,
    memory_high: spec?.limits.memoryHighBytes || undefined,
    cpu: spec?.limits.cpuNano || undefined,
    pid_limit: spec?.limits.pids || undefined,
    readonly_fs: spec?.readonlyRoot,
    network_mode: spec?.network,
    network: record.network,
    secrets: record.secrets?.length ? record.secrets : undefined,
    credentials: record.credentials?.length ? record.credentials : undefined,
    ssh_agent: request.ssh_agent,
    isolation: spec?.isolation,
    workdir: spec?.workdir,
    user: spec?.user,
    cmd: spec?.cmd,
    mounts: spec?.mounts.length ? mountInfos(spec.mounts) : undefined,
    snapshot_id: record.snapshot,
  });
}

export function mountInfos(mounts: readonly RuntimeMount[]): MountInfo[] {
  return mounts.map(({ type, source, target, readonly }) => ({
    type,
    source,
    mount_path: target,
    read_only: readonly,
  }));
}

/** A port as clients see it: nobody listens for a sandbox that does not run. */
export function publishedPort(record: SandboxRecord, { error, ...port }: StoredPort): PublishedPort {
  if (!isAlive(record)) return { ...port, state: "closed" };
  return error === undefined ? { ...port, state: "open" } : { ...port, state: "failed", error };
}

type WithoutUndefined<T> = { [K in keyof T]: Exclude<T[K], undefined> };

export function dropAbsent<T extends object>(value: T): WithoutUndefined<T> {
  return Object.fromEntries(
    Object.entries(value).filter(([, field]) => field !== undefined),
  ) as WithoutUndefined<T>;
}
