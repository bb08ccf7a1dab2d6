import { WarrenError } from "../contracts/errors.ts";

/** @throws WarrenError `cancelled` when the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancelled(signal);
}

export function cancelled(signal?: AbortSignal): WarrenError {
  return signal?.reason instanceof WarrenError
    ? signal.reason
    : new WarrenError("cancelled", "the call was given up", { cause: signal?.reason });
}

/**
 * A signal that fires with the first of the given ones. Unlike `AbortSignal.any` it lets go of the long-lived ones
 * when it is disposed, so that nothing piles up on them.
 */
export function linkSignals(...sources: (AbortSignal | undefined)[]): Disposable & { signal: AbortSignal } {
  const controller = new AbortController();
  const undo: (() => void)[] = [];
  for (const source of sources) {
    if (!source) continue;
    if (source.aborted) controller.abort(source.reason);
    const fire = () => controller.abort(source.reason);
    source.addEventListener("abort", fire, { once: true });
    undo.push(() => source.removeEventListener("abort", fire));
  }
  return {
    signal: controller.signal,
    [Symbol.dispose]() {
      for (const step of undo) step();
    },
  };
}
