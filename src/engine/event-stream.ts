import { WarrenError } from "../contracts/errors.ts";
import { EventFilter, type EventOptions, type SandboxEvent } from "../contracts/events.ts";
import { parseInput } from "../lib/parse.ts";
import { cancelled, linkSignals } from "../lib/signals.ts";
import type { Core } from "./core.ts";

/** Events that wait for a reader. One that is further behind has to look for itself what is. */
const MOST_WAITING = 1000;

/**
 * What happens from now on, until the reader leaves, the signal fires, or the sandbox that it is about is removed.
 * @throws WarrenError `sandbox_not_found`; while it is read `too_large` for a reader that falls behind, and `shutting_down`
 */
export function streamEvents(core: Core, { signal, ...filter }: EventOptions): AsyncIterable<SandboxEvent> {
  const { sandbox, types } = parseInput(EventFilter, filter);
  const id = sandbox === undefined ? undefined : core.table.resolve(sandbox).id;
  const waiting: SandboxEvent[] = [];
  let over: WarrenError | "removed" | undefined;
  let wake = () => {};
  const unsubscribe = core.events.subscribe((event) => {
    if (over !== undefined || (id !== undefined && event.sandbox.id !== id)) return;
    const { at, ...rest } = event;
    if (types === undefined || types.includes(event.type)) {
      waiting.push({ ...rest, at: new Date(at).toISOString() });
    }
    if (waiting.length > MOST_WAITING) {
      over = new WarrenError("too_large", "the reader of these events is too far behind", {
        hint: "read them faster, or ask for fewer",
      });
    } else if (id !== undefined && event.type === "removed") over = "removed";
    wake();
  });
  const either = linkSignals(signal, core.closing);
  const abort = () => {
    over ??= cancelled(either.signal);
    unsubscribe();
    wake();
  };
  either.signal.addEventListener("abort", abort, { once: true });
  if (either.signal.aborted) abort();
  return (async function* () {
    try {
      for (;;) {
        if (over instanceof WarrenError) throw over;
        const next = waiting.shift();
        if (next) {
          yield next;
        } else if (over === "removed") {
          return;
        } else {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      }
    } finally {
      either.signal.removeEventListener("abort", abort);
      either[Symbol.dispose]();
      unsubscribe();
    }
  })();
}
