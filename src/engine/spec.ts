import type { PreparedImage, RuntimeSpec } from "../contracts/runtime.ts";
import type { Admitted } from "./admission.ts";
import { proxyEnvironment } from "./network.ts";

/** What the engine adds of its own. */
export interface GivenByEngine {
  /** Over the image's variables, and below the request's. */
  env?: Readonly<Record<string, string>>;
  mainAfter?: string | undefined;
}

/** A spec's variables after the engine's own have changed from `before` to `after`; the request's hold. */
export function replaceGiven(
  env: Readonly<Record<string, string>>,
  {
    before,
    after,
    requested = {},
  }: Record<"before" | "after", Readonly<Record<string, string>>> & {
    requested?: Readonly<Record<string, string>> | undefined;
  },
): Record<string, string> {
  const kept = Object.entries(env).filter(([name]) => !Object.hasOwn(before, name));
  return { ...Object.fromEntries(kept), ...after, ...requested };
}

/**
 * What a runtime is told: the request, the image's own defaults where it is silent, and ours where both are.
 * The image's command is not among them: an image such as `debian:12` names a shell, which would end at once without
 * a terminal and take the sandbox with it.
 */
export function runtimeSpec(
  id: string,
  admitted: Omit<Admitted, "runtime">,
  image: PreparedImage,
  given: GivenByEngine = {},
): RuntimeSpec {
  const { request } = admitted;
  const user = request.user ?? image.user ?? "";
  return {
    id,
    image,
    env: { ...image.env, ...proxyEnvironment(admitted.network.mode), ...given.env, ...request.env },
    // An image is a stranger's: a relative directory in it means nothing.
    workdir: request.workdir ?? (image.workdir?.startsWith("/") ? image.workdir : "/"),
    ...(request.cmd === undefined ? {} : { cmd: request.cmd }),
    ...(user === "" ? {} : { user }),
    ...(given.mainAfter === undefined ? {} : { mainAfter: given.mainAfter }),
    hostname: request.name ?? id,
    labels: request.labels ?? {},
    network: admitted.network.mode,
    ...(admitted.network.reach ? { reach: admitted.network.reach } : {}),
    isolation: admitted.isolation,
    readonlyRoot: admitted.readonlyRoot,
    tmpfs: admitted.tmpfs,
    mounts: admitted.mounts,
    limits: admitted.limits,
  };
}
