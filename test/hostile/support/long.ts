/** `WARREN_LONG=1` asks for the long form: every combination, and races of 100 000 calls. */
const isLong = process.env.WARREN_LONG === "1";

/** Calls in one race. */
export const raceCalls = isLong ? 100_000 : 2_000;

/** How long a race may take, in milliseconds, on a busy machine. */
export const raceTimeoutMs = isLong ? 30 * 60_000 : 90_000;

/** All of them in the long form; in the short one `count`, others for each `turn`. */
export function someOf<T>(all: readonly T[], turn: number, count = 1): T[] {
  if (isLong) return [...all];
  return Array.from({ length: count }, (_, i) => all[(turn + i) % all.length] as T);
}

/** Starts in one race: each takes some 50 ms. */
export const raceStarts = isLong ? 2_000 : 60;
