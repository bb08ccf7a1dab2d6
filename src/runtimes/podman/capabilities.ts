import type { Capabilities } from "../../contracts/runtime.ts";

/** What Podman can do at best; where it runs narrows it. */
export const podmanCapabilities: Capabilities = {
  networkModes: ["none"],
  limits: ["memory", "cpu", "pids"],
  readonlyRoot: true,
  tmpfs: true,
  // Of rootless Podman only.
  userNamespace: false,
  rootless: true,
  pause: true,
  snapshots: false,
  isolation: ["container"],
  images: ["oci"],
  imageStore: false,
  volumes: false,
  binds: true,
};
