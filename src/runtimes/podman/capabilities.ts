import type { Capabilities } from "../../contracts/runtime.ts";
import { containerCapabilities } from "../containers/capabilities.ts";
import type { PodmanInfo } from "./info.ts";

/** What Podman can do at best; where it runs narrows it. */
export const podmanCapabilities: Capabilities = containerCapabilities;

/** What this Podman can do, by what it says of itself. */
export function capabilitiesOf(info: PodmanInfo): Capabilities {
  if (!info.isRootless) return podmanCapabilities;
  const limits = podmanCapabilities.limits.filter(
    (limit) => info.cgroupVersion === 2 && info.controllers.includes(limit),
  );
  const lacking = podmanCapabilities.limits.filter((limit) => !limits.includes(limit));
  return {
    ...podmanCapabilities,
    userNamespace: true,
    limits,
    // A container of a user has a cgroup of its own on v2 only, and what has none can't be frozen.
    pause: info.cgroupVersion === 2,
    ...(lacking.length > 0 ? { limitsMissing: missing(info, lacking) } : {}),
  };
}

function missing(info: PodmanInfo, lacking: readonly string[]): { why: string; fix: string } {
  if (info.cgroupVersion === 1) {
    return {
      why: "a rootless Podman can't limit anything on cgroup v1",
      fix: "boot with systemd.unified_cgroup_hierarchy=1, or run the engine as root",
    };
  }
  return {
    why: `the cgroup controllers for ${lacking.join(", ")} aren't delegated to this user`,
    fix:
      "mkdir -p /etc/systemd/system/user@.service.d && " +
      "printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' >/etc/systemd/system/user@.service.d/delegate.conf && " +
      "systemctl daemon-reload, then log in again",
  };
}
