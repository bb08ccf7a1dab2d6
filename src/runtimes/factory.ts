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
  /** Refuse programs underneath whose version has published escapes; else the probe warns of them. */
  strict?: boolean;
  /** For tests that end an engine at a certain step. */
  onStep?: OnStep;
}

/** What a driver exports. Called again after it failed; a failure leaves nothing open. Throws `runtime_unavailable` with what mends it. */
export type RuntimeFactory = (options: RuntimeOptions) => Promise<Runtime>;
