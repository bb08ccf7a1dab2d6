import type { Capabilities } from "../../contracts/runtime.ts";

/** What engines with a Docker-compatible API can do at best. */
export const containerCapabilities: Capabilities = {
  networkModes: ["none", "filtered", "open", "host"],
  networkCapture: true,
  limits: ["memory", "cpu", "pids"],
  readonlyRoot: true,
  tmpfs: true,
  // Of a rootless engine, or one that maps ids, only.
  userNamespace: false,
  rootless: true,
  pause: true,
  snapshots: true,
  isolation: ["container"],
  images: ["oci", "tar"],
  imageStore: true,
  volumes: true,
  binds: true,
};
