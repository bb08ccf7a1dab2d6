import { availableParallelism, totalmem } from "node:os";

const MIB = 1024 ** 2;

export interface EngineConfig {
  /** Live sandboxes at most, stopped ones included. */
  maxSandboxes: number;
  /** Seconds until a sandbox expires whose request names no timeout; negative: never. */
  defaultTimeoutS: number;
  /** Bytes, for sandboxes that ask for none; 0: no limit. */
  defaultMemoryBytes: number;
  /** Processes and threads, for sandboxes that ask for none; 0: no limit. */
  defaultPids: number;
  /** NanoCPUs, for sandboxes that ask for none; 0: no limit. */
  defaultCpuNano: number;
  /** Commands at one time in one sandbox. */
  maxExecsPerSandbox: number;
  /** Commands at one time in all sandboxes: each costs up to three file descriptors and its capped output. */
  maxExecs: number;
  /** Connections into one sandbox through its ports: each takes a process inside, of which there are 1024. */
  maxPortConnectionsPerSandbox: number;
  /** Those into all sandboxes: each costs two file descriptors. */
  maxPortConnections: number;
  /** Bytes of output that all commands together may have kept here; what comes beyond is cut and flagged. */
  maxTotalOutputBytes: number;
  /** Bytes of one file of a sandbox's log. */
  logFileBytes: number;
  /** Files of a sandbox's log; the oldest goes when another is begun. */
  logFiles: number;
  /** Bytes of a main command's output that are taken each second, once it has filled its files. */
  logBytesPerS: number;
  /** Certificates that secrets are given to beside those that this host trusts: a file, PEM. */
  trustFile?: string;
  /** Bytes of a build's context. */
  maxBuildContextBytes: number;
  /** Builds at one time; others wait, with their contexts unread. */
  maxBuilds: number;
  /** Grace between SIGTERM and SIGKILL when a stop names none. */
  stopGraceMs: number;
  /** Grace when a sandbox is removed: its files go too, so there is little to save. 0: killed at once. */
  removeGraceMs: number;
}

export function defaultConfig(): EngineConfig {
  return {
    maxSandboxes: 100, // den's default
    // den's default, 30 min: a server whose clients forget their sandboxes must not fill up.
    defaultTimeoutS: 1800,
    // One sandbox may not starve the host; below 512 MiB little runs.
    defaultMemoryBytes: Math.max(512 * MIB, Math.floor(totalmem() / 2)),
    defaultPids: 512,
    defaultCpuNano: 0,
    maxExecsPerSandbox: 64,
    maxExecs: 1024,
    maxPortConnectionsPerSandbox: 512,
    maxPortConnections: 4096,
    maxTotalOutputBytes: 512 * MIB,
    logFileBytes: 4 * MIB,
    logFiles: 2,
    logBytesPerS: MIB,
    maxBuildContextBytes: 4 * 1024 * MIB,
    // One holds a processor, and on some runtimes memory that no limit counts.
    maxBuilds: Math.max(2, Math.ceil(availableParallelism() / 2)),
    stopGraceMs: 2000,
    removeGraceMs: 0,
  };
}
