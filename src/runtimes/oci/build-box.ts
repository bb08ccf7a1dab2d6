import { randomBytes } from "node:crypto";
import type { BuildOptions, RuntimeSpec } from "../../contracts/runtime.ts";
import type { GuestClient } from "../../guest/types.ts";
import { noSpace } from "../../lib/files.ts";
import { once } from "../../lib/once.ts";
import { capabilities } from "../common/guest-program.ts";
import { prepareSeccomp } from "../common/seccomp.ts";
import type { ReadonlyBind } from "./launcher-client.ts";
import type { Layout } from "./layout.ts";
import type { Lifecycle } from "./lifecycle.ts";
import type { OciProgram } from "./programs.ts";
import type { SandboxStore } from "./sandbox-store.ts";
import type { Uplink } from "./uplinks/uplink.ts";

/**
 * A sandbox of the runtime's own in which an image is built: what a build runs is as hostile as what a sandbox runs. It has the
 * image `host`, the same ids and capabilities as others, and a filter that lets it make user namespaces and mounts in itself,
 * which buildah needs.
 */
export interface BuildBox extends AsyncDisposable {
  guest: GuestClient;
}

export type BuildReach = Pick<BuildOptions, "network" | "reach">;
export type OpenBuildBox = (reach: BuildReach, signal: AbortSignal) => Promise<BuildBox>;

/**
 * Whose filter of system calls the box has: with mounts and new namespaces, as for somebody with CAP_SYS_ADMIN, which nobody there
 * has but in user namespaces of its own.
 */
const builderFilter: readonly string[] = [...capabilities, "CAP_SYS_ADMIN"];

const PREFIX = "build-";
/** Enough for any build tool, and no bomb. */
const MAX_PROCESSES = 8192;

/** Sandboxes of builds; no engine sees them. */
export const isBuildId = (id: string): boolean => id.startsWith(PREFIX);

function buildSpec(limits: readonly string[], { network = "none", reach }: BuildReach): RuntimeSpec {
  return {
    id: `${PREFIX}${randomBytes(6).toString("hex")}`,
    image: { id: "host", reference: "host", env: {} },
    env: {},
    workdir: "/",
    hostname: "build",
    labels: {},
    network,
    ...(reach ? { reach } : {}),
    isolation: "container",
    readonlyRoot: false,
    tmpfs: [],
    mounts: [],
    limits: { memoryBytes: 0, cpuNano: 0, pids: limits.includes("pids") ? MAX_PROCESSES : 0 },
  };
}

export interface BuildBoxOptions {
  layout: Layout;
  lifecycle: Lifecycle;
  store: SandboxStore;
  discard(dir: string): Promise<void>;
  /** That this host enforces. */
  limits: readonly string[];
  image(id: string, signal: AbortSignal): Promise<string>;
  binds(id: string): Promise<ReadonlyBind[]>;
  program(): Promise<OciProgram>;
  uplink(): Promise<Uplink>;
  guestOf(id: string): GuestClient;
}

export function createBuildBoxes(options: BuildBoxOptions): OpenBuildBox {
  const { layout, lifecycle, store } = options;
  const getSeccomp = once(() => prepareSeccomp(builderFilter));
  return async (reach, signal) => {
    const spec = buildSpec(options.limits, reach);
    const { id } = spec;
    const end = async () => {
      await lifecycle.finish(id);
      for (const dir of await store.dirs(id)) await options.discard(dir);
    };
    const uplink = spec.network === "open" ? await options.uplink() : undefined;
    try {
      const sandbox = { spec, lower: await options.image(spec.image.id, signal) };
      await store.create(sandbox, { asUser: false });
      await lifecycle.start({
        program: await options.program(),
        seccomp: await getSeccomp(),
        sandbox,
        binds: await options.binds(spec.image.id),
        paths: layout.sandbox(id),
        ...(uplink ? { uplink } : {}),
      });
      const guest = options.guestOf(id);
      await guest.hello();
      return { guest, [Symbol.asyncDispose]: end };
    } catch (error) {
      await end();
      throw noSpace(error);
    }
  };
}
