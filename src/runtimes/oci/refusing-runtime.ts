import { WarrenError } from "../../contracts/errors.ts";
import type { ProbeFinding, Runtime } from "../../contracts/runtime.ts";
import { leastCapabilities } from "./capabilities.ts";

/** What there is for a user without subordinate ids: a report, and a refusal of everything else. */
export function refusingRuntime(missing: readonly ProbeFinding[]): Runtime {
  const [first] = missing;
  const refuse = () =>
    Promise.reject(
      new WarrenError("runtime_unavailable", first?.message ?? "sandboxes can't be made here", {
        hint: missing.map((finding) => finding.fix).join(" && "),
      }),
    );
  return {
    name: "oci",
    capabilities: { ...leastCapabilities, volumes: false, snapshots: false },
    probe: async () => ({ runtime: "oci", usable: false, findings: [...missing] }),
    images: { ensure: refuse },
    create: refuse,
    start: refuse,
    stop: refuse,
    pause: refuse,
    resume: refuse,
    updateLimits: refuse,
    updateReach: refuse,
    reachItems: refuse,
    watchDenied: refuse,
    remove: refuse,
    inspect: refuse,
    // What there may be is out of reach, and not gone.
    list: refuse,
    connect: refuse,
    stats: refuse,
    oomKills: () => undefined,
    close: async () => {},
  };
}
