import type { RuntimeFactory } from "./factory.ts";

export type { RuntimeFactory, RuntimeOptions } from "./factory.ts";

/** One line per driver; nothing is loaded until chosen. */
export const runtimes = {
  oci: (): Promise<RuntimeFactory> => import("./oci/runtime.ts").then((m) => m.openOciRuntime),
  podman: (): Promise<RuntimeFactory> => import("./podman/runtime.ts").then((m) => m.openPodmanRuntime),
  docker: (): Promise<RuntimeFactory> => import("./docker/runtime.ts").then((m) => m.openDockerRuntime),
  fake: (): Promise<RuntimeFactory> => import("./fake/runtime.ts").then((m) => m.openFakeRuntime),
} as const;

export type RuntimeName = keyof typeof runtimes;
