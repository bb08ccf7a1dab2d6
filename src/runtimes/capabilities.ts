import type { Capabilities } from "../contracts/runtime.ts";
import { dockerCapabilities } from "./docker/capabilities.ts";
import { ociCapabilities } from "./oci/capabilities.ts";
import { podmanCapabilities } from "./podman/capabilities.ts";
import type { RuntimeName } from "./registry.ts";

/** What each driver can do at best, for the table in README.md: `node scripts/capability-table.mjs` brings that up to date. */
export const bestCapabilities: Record<Exclude<RuntimeName, "fake">, Capabilities> = {
  oci: ociCapabilities,
  podman: podmanCapabilities,
  docker: dockerCapabilities,
};
