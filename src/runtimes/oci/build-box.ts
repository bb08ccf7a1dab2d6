import { randomBytes } from "node:crypto";
import type { RuntimeSpec } from "../../contracts/runtime.ts";
import type { GuestClient } from "../../guest/types.ts";
import { capabilities } from "../common/guest-program.ts";

/**
 * A sandbox of the runtime's own in which an image is built: what a build runs is as hostile as what a sandbox runs. It has the
 * image `host`, the same ids and capabilities as others, and a filter that lets it make user namespaces and mounts in itself,
 * which buildah needs. It has the host's network.
 */
export interface BuildBox extends AsyncDisposable {
  guest: GuestClient;
}

export type OpenBuildBox = (signal: AbortSignal) => Promise<BuildBox>;

/**
 * Whose filter of system calls the box has: with mounts and new namespaces, as for somebody with CAP_SYS_ADMIN, which nobody there
 * has but in user namespaces of its own.
 */
export const builderFilter: readonly string[] = [...capabilities, "CAP_SYS_ADMIN"];

const PREFIX = "build-";
/** Enough for any build tool, and no bomb. */
const MAX_PROCESSES = 8192;

/** Sandboxes of builds; no engine sees them. */
export const isBuildId = (id: string): boolean => id.startsWith(PREFIX);

export function buildSpec(limits: readonly string[]): RuntimeSpec {
  return {
    id: `${PREFIX}${randomBytes(6).toString("hex")}`,
    image: { id: "host", reference: "host", env: {} },
    env: {},
    workdir: "/",
    hostname: "build",
    labels: {},
    network: "none",
    isolation: "container",
    readonlyRoot: false,
    tmpfs: [],
    mounts: [],
    limits: { memoryBytes: 0, cpuNano: 0, pids: limits.includes("pids") ? MAX_PROCESSES : 0 },
  };
}
