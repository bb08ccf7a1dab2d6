import { WarrenError } from "../../contracts/errors.ts";
import type { NetworkMode } from "../../contracts/runtime.ts";

/**
 * Whether a sandbox with this network can have credentials.
 * @throws WarrenError `invalid_request`
 */
export function admitCredentials(mode: NetworkMode): void {
  if (mode !== "host") return;
  throw new WarrenError(
    "invalid_request",
    "credentials: with the network host every program of the engine's machine could ask for them",
    { hint: "choose another network" },
  );
}
