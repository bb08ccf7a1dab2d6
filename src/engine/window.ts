import type { Clock } from "./clock.ts";

export interface WindowOptions<E> {
  clock: Clock;
  /** Equal events within this time are told as one with their number, after the first. */
  windowMs: number;
  /** Different ones that are told within that time. */
  most: number;
  /** The first of its kind, and later, when equal ones have followed, how many more. */
  tell: (event: E, more?: number) => void;
  /** Of what came beyond `most` only the number is told. */
  tellBeyond: (allowed: boolean, count: number) => void;
}

/** Tells of events that a sandbox may cause as often as it likes, so that what hears of them stays bounded. */
export interface Window<E> {
  add(key: string, event: E): void;
  /** Tells what has not been told yet. */
  flush(): void;
}

export function createWindow<E extends { allowed: boolean }>({
  clock,
  windowMs,
  most,
  tell,
  tellBeyond,
}: WindowOptions<E>): Window<E> {
  const kinds = new Map<string, { event: E; more: number }>();
  const beyond = { allowed: 0, denied: 0 };
  let timer: { cancel(): void } | undefined;

  const flush = () => {
    timer?.cancel();
    timer = undefined;
    for (const { event, more } of kinds.values()) if (more > 0) tell(event, more);
    kinds.clear();
    for (const outcome of ["allowed", "denied"] as const) {
      const count = beyond[outcome];
      beyond[outcome] = 0;
      if (count > 0) tellBeyond(outcome === "allowed", count);
    }
  };

  return {
    add(key, event) {
      timer ??= clock.after(windowMs, flush);
      const same = kinds.get(key);
      if (same) {
        same.more++;
      } else if (kinds.size < most) {
        kinds.set(key, { event, more: 0 });
        tell(event);
      } else {
        beyond[event.allowed ? "allowed" : "denied"]++;
      }
    },
    flush,
  };
}
