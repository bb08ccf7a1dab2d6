import type { Capabilities } from "../../contracts/runtime.ts";
import { containerCapabilities } from "../containers/capabilities.ts";
import type { Daemon } from "./daemon.ts";

/** What Docker can do at best; its daemon's settings and its host narrow it. */
export const dockerCapabilities: Capabilities = containerCapabilities;

/** What this daemon can do, by what it says of itself. */
export function capabilitiesOf(daemon: Daemon): Capabilities {
  const { enforces } = daemon;
  const limits = dockerCapabilities.limits.filter((limit) => {
    switch (limit) {
      case "memory":
        // A limit is one of memory and swap together.
        return enforces.memory && enforces.swap;
      case "cpu":
      case "pids":
        return enforces[limit];
      default:
        return false;
    }
  });
  const lacks = dockerCapabilities.limits.filter((limit) => !limits.includes(limit));
  return {
    ...dockerCapabilities,
    limits,
    ...(lacks.length > 0 ? { limitsMissing: missing(daemon, lacks) } : {}),
    userNamespace: daemon.hasUserNamespace,
  };
}

function missing(daemon: Daemon, lacks: readonly string[]): { why: string; fix: string } {
  const why = `the Docker daemon can't limit ${lacks.join(", ")}`;
  if (daemon.isRootless) {
    return {
      why: `${why}: a rootless daemon needs delegated cgroups of version 2 for that`,
      fix: "boot with cgroup v2, and delegate cpu, memory and pids to the user: https://docs.docker.com/go/rootless-cgroup/",
    };
  }
  if (lacks.join() === "memory" && daemon.enforces.memory) {
    return { why: `${why}: its kernel does not count swap`, fix: "boot the kernel with swapaccount=1" };
  }
  return {
    why: `${why}: its kernel lacks the cgroup controllers`,
    fix: "boot the kernel with cgroup_enable=memory swapaccount=1",
  };
}
