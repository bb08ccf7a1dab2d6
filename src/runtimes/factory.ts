import type { Runtime } from "../contracts/runtime.ts";
import type { OnStep } from "../contracts/steps.ts";
import type { Logger } from "../lib/log.ts";

export interface RuntimeOptions {
  /** Absolute. A runtime keeps its files in `<stateDir>/<its name>/`. */
  stateDir: string;
  /** Stable for this state directory, made of [a-z0-9]; every host object carries it and the sandbox id. */
  ownerId: string;
  log: Logger;
  /** For `oci`: the program to run; default: the first of crun, runc that works here. */
  ociProgram?: "crun" | "runc";
  /** For `oci`: what carries the packets of open network; default: the first that works here. */
  uplink?: "slirp4netns" | "pasta";
  /** For `docker`: where its daemon is. */
  docker?: DockerSettings;
  /** For `podman`: the OrbStack machine that it is in. Absent: it is here. */
  orb?: OrbSettings;
  /** Refuse programs underneath whose version has published escapes; else the probe warns of them. */
  strict?: boolean;
  /** For tests that end an engine at a certain step. */
  onStep?: OnStep;
}

/** What the docker command reads from its environment, unparsed; an empty variable counts as absent. */
export interface DockerSettings {
  /** DOCKER_HOST */
  host?: string;
  /** DOCKER_CONTEXT */
  context?: string;
  /** DOCKER_TLS_VERIFY: any value means yes. */
  tlsVerify?: string;
  /** DOCKER_CERT_PATH, absolute. */
  certPath?: string;
  /** DOCKER_CONFIG, or `.docker` in the home directory; absolute. Absent: there are no contexts. */
  configDir?: string;
  /** XDG_RUNTIME_DIR */
  runtimeDir?: string;
}

export interface OrbSettings {
  /** Name of the machine; made when there is none. */
  machine: string;
}

/** What a driver exports. Called again after it failed; a failure leaves nothing open. Throws `runtime_unavailable` with what mends it. */
export type RuntimeFactory = (options: RuntimeOptions) => Promise<Runtime>;
