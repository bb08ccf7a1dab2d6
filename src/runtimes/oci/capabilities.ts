import { isolations } from "../../contracts/constants.ts";
import type { Capabilities } from "../../contracts/runtime.ts";

/** What the driver can do at best: as root, with cgroups and with runsc. Where it runs narrows it. */
export const ociCapabilities: Capabilities = {
  networkModes: ["none", "filtered", "open", "host"],
  networkCapture: true,
  limits: ["memory", "cpu", "pids"],
  readonlyRoot: true,
  tmpfs: true,
  userNamespace: true,
  rootless: true,
  pause: true,
  snapshots: true,
  isolation: isolations,
  images: ["host", "directory", "tar", "oci"],
  imageStore: true,
  volumes: true,
  binds: true,
};

/** What is left of them for whom nothing more is known to work. */
export const leastCapabilities: Capabilities = {
  ...ociCapabilities,
  networkModes: ["none", "filtered", "host"],
  networkCapture: false,
  limits: [],
  pause: false,
  isolation: ["container"],
};
