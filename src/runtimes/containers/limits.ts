import { WarrenError } from "../../contracts/errors.ts";
import type { Capabilities, RuntimeLimits } from "../../contracts/runtime.ts";
import { CPU_PERIOD_US, cpuQuotaUs } from "../common/cpu-limit.ts";

/** As many as a kernel can have: no limit. */
export const MAX_PROCESSES = 4_194_304;

/** Throws `unsupported`, with the reason, for a limit that the engine can't enforce. */
export function refuseLimits(
  name: string,
  { limits: able, limitsMissing }: Pick<Capabilities, "limits" | "limitsMissing">,
  { memoryBytes, memoryHighBytes = 0, cpuNano, pids }: RuntimeLimits,
): void {
  const asked = { memory: memoryBytes + memoryHighBytes, cpu: cpuNano, pids };
  for (const [limit, value] of Object.entries(asked)) {
    if (value === 0 || able.includes(limit as keyof typeof asked)) continue;
    throw new WarrenError(
      "unsupported",
      limitsMissing ? `${limit}: ${limitsMissing.why}` : `${name} can't enforce a ${limit} limit here`,
      { hint: `${limitsMissing ? `${limitsMissing.fix}; or ` : ""}create it without limits (--unlimited)` },
    );
  }
}

/** Of a create. `able`: what is not among it isn't told, since engines complain even of no limit. */
export function limitConfig(limits: RuntimeLimits, able: Capabilities["limits"]): object {
  const { memoryBytes, cpuNano, pids } = limits;
  return {
    // Memory and swap together, so equal to the limit: no swap.
    ...(memoryBytes > 0 ? { Memory: memoryBytes, MemorySwap: memoryBytes } : {}),
    ...(cpuNano > 0 ? { CpuPeriod: CPU_PERIOD_US, CpuQuota: cpuQuotaUs(cpuNano) } : {}),
    // Without a number some engines have one of their own, and crun on cgroup v1 takes no -1.
    ...(able.includes("pids") ? { PidsLimit: pids > 0 ? pids : MAX_PROCESSES } : {}),
  };
}

/** More than any machine has: Docker takes no -1 for a memory limit that was set once. */
const NO_MEMORY_LIMIT = 2 ** 62;

/** The body of Docker's `POST /containers/{id}/update`. */
export function limitChanges({ memoryBytes, cpuNano, pids }: RuntimeLimits): object {
  return {
    Memory: memoryBytes > 0 ? memoryBytes : NO_MEMORY_LIMIT,
    MemorySwap: memoryBytes > 0 ? memoryBytes : NO_MEMORY_LIMIT,
    CpuPeriod: CPU_PERIOD_US,
    CpuQuota: cpuNano > 0 ? cpuQuotaUs(cpuNano) : -1,
    PidsLimit: pids > 0 ? pids : -1,
  };
}
