import type { Health } from "../contracts/api.ts";
import type { Core } from "./core.ts";
import { features } from "./features.ts";

/** How long a probe's answer holds: it starts programs, and health is asked often. */
const PROBE_HOLDS_MS = 30_000;

/** Whether a sandbox can be created now with the default runtime. */
export function createHealthCheck(core: Core): () => Promise<Health> {
  let probed: { at: number; reason: Promise<string | undefined> } | undefined;
  return async () => {
    const now = performance.now();
    if (probed === undefined || now - probed.at > PROBE_HOLDS_MS) probed = { at: now, reason: probe(core) };
    const reason = await probed.reason;
    return reason === undefined
      ? { status: "ok", features: [...features] }
      : { status: "unhealthy", reason, features: [...features] };
  };
}

/** Why the default runtime can't be used; undefined when it can. */
async function probe(core: Core): Promise<string | undefined> {
  const runtime = core.runtimes[core.defaultRuntime];
  try {
    const report = await runtime?.probe();
    if (report?.usable) return undefined;
    const finding = report?.findings.find((candidate) => candidate.level === "error");
    return finding ? `runtime unavailable: ${finding.message}` : "runtime unavailable";
  } catch (error) {
    core.log.error({ err: error, runtime: core.defaultRuntime }, "a runtime can't be probed");
    return "runtime unavailable";
  }
}
