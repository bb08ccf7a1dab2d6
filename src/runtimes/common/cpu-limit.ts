/** cpu.cfs_period_us; the kernel's default. */
export const CPU_PERIOD_US = 100_000;
/** The kernel's own, of a group that nobody has given another: of v1, and of v2. */
const DEFAULT_CPU_SHARES = 1024;
const DEFAULT_CPU_WEIGHT = 100;

/** Microseconds of each period. The kernel takes no quota below 1 ms. */
export function cpuQuotaUs(cpuNano: number): number {
  return Math.max(1000, Math.round((cpuNano / 1e9) * CPU_PERIOD_US));
}

/** 1024 shares are one core's worth of weight; 2 is the least. */
export function cpuShares(cpuNano: number): number {
  return Math.max(2, Math.min(262_144, Math.round((cpuNano / 1e9) * DEFAULT_CPU_SHARES)));
}

/** Files of a cgroup, and what they hold for so many NanoCPUs; 0: as if there never had been a limit. */
export function cpuValues(version: 1 | 2, cpuNano: number): (readonly [file: string, value: string])[] {
  const quota = cpuNano > 0 ? cpuQuotaUs(cpuNano) : undefined;
  if (version === 2) {
    const weight = cpuNano > 0 ? cpuWeight(cpuShares(cpuNano)) : DEFAULT_CPU_WEIGHT;
    return [
      ["cpu.max", `${quota ?? "max"} ${CPU_PERIOD_US}`],
      ["cpu.weight", String(weight)],
    ];
  }
  return [
    ["cpu.cfs_period_us", String(CPU_PERIOD_US)],
    ["cpu.cfs_quota_us", String(quota ?? -1)],
    ["cpu.shares", String(cpuNano > 0 ? cpuShares(cpuNano) : DEFAULT_CPU_SHARES)],
  ];
}

/** As crun and runc turn 2-262144 shares into a weight of 1-10000. */
function cpuWeight(shares: number): number {
  return 1 + Math.floor(((shares - 2) * 9999) / 262_142);
}
