import type { Health } from "../contracts/api.ts";
import type { Core } from "./core.ts";
import { featuresWith } from "./features.ts";

/** How long a probe's answer holds: it starts programs, and health is asked often. */
const PROBE_HOLDS_MS = 30_000;

/** Whether a sandbox can be created now with the default runtime. Of others, those out of reach are told of as the reason. */
export function createHealthCheck(core: Core): () => Promise<Health> {
  const { runtimes } = core;
  let probed: { at: number; reason: Promise<string | undefined> } | undefined;
  return async () => {
    const now = performance.now();
    if (probed === undefined || now - probed.at > PROBE_HOLDS_MS) probed = { at: now, reason: probe(core) };
    const wrong = runtimes.trouble(runtimes.defaultName)?.message ?? (await probed.reason);
    const others = runtimes.inUse().flatMap((name) => runtimes.trouble(name)?.message ?? []);
    const reason = wrong ?? (others.length > 0 ? others.join("; ") : undefined);
    return {
      status: wrong === undefined ? "ok" : "unhealthy",
      features: featuresWith(runtimes),
      ...(reason === undefined ? {} : { reason }),
    };
  };
}

/** Why the default runtime can't be used; undefined when it can. */
async function probe(core: Core): Promise<string | undefined> {
  try {
    const report = await core.runtimes.opened(core.runtimes.defaultName).probe();
    if (report.usable) return undefined;
    const finding = report.findings.find((candidate) => candidate.level === "error");
    return finding ? `runtime unavailable: ${finding.message}` : "runtime unavailable";
  } catch (error) {
    core.log.error({ err: error, runtime: core.runtimes.defaultName }, "a runtime can't be probed");
    return "runtime unavailable";
  }
}
