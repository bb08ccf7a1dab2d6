/** cpu.cfs_period_us; the kernel's default. */
export const CPU_PERIOD_US = 100_000;
/** The kernel's own, of a group that nobody has given another. */
export const DEFAULT_CPU_SHARES = 1024;

/** Microseconds of each period. The kernel takes no quota below 1 ms. */
export function cpuQuotaUs(cpuNano: number): number {
  return Math.max(1000, Math.round((cpuNano / 1e9) * CPU_PERIOD_US));
}

/** 1024 shares are one core's worth of weight; 2 is the least. */
export function cpuShares(cpuNano: number): number {
  return Math.max(2, Math.min(262_144, Math.round((cpuNano / 1e9) * DEFAULT_CPU_SHARES)));
}
