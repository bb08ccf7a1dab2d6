import type { NetworkDecision } from "../../contracts/network.ts";
import type { Clock } from "../clock.ts";
import { createWindow } from "../window.ts";

/** Equal decisions within this time are told as one with their number, after the first. */
const WINDOW_MS = 5_000;
/** Different ones that are told within that time; of what comes beyond only the number is. */
const MOST_IN_WINDOW = 100;
/** Different ones that are remembered. */
const MOST_REMEMBERED = 200;

/** A decision in this moment. */
export type Decided = Omit<NetworkDecision, "at" | "count" | "last_at">;

/** Keeps and tells the decisions of one sandbox, which may ask for as many as it likes. */
export interface Recorder {
  record(event: Decided): void;
  /** The last ones, the oldest first, each with how often it came. */
  decisions(): NetworkDecision[];
  counts(): { allowed: number; denied: number };
  /** Tells what has not been told yet. */
  flush(): void;
}

/** `tell` hears of each decision that is new, and later, with `count`, how many equal ones have followed it. */
export function createRecorder(clock: Clock, tell: (decision: NetworkDecision) => void): Recorder {
  const remembered = new Map<string, NetworkDecision>();
  const counts = { allowed: 0, denied: 0 };
  const now = () => new Date(clock.now()).toISOString();

  const remember = (key: string, decision: NetworkDecision) => {
    const known = remembered.get(key);
    remembered.delete(key);
    remembered.set(
      key,
      known ? { ...known, count: (known.count ?? 1) + 1, last_at: decision.at ?? "" } : decision,
    );
    for (const oldest of remembered.keys()) {
      if (remembered.size <= MOST_REMEMBERED) break;
      remembered.delete(oldest);
    }
  };

  const window = createWindow<NetworkDecision>({
    clock,
    windowMs: WINDOW_MS,
    most: MOST_IN_WINDOW,
    tell: (decision, more) => tell(more === undefined ? decision : { ...decision, at: now(), count: more }),
    tellBeyond(allowed, count) {
      const reason = `more than ${MOST_IN_WINDOW} different connections within ${WINDOW_MS / 1000} s`;
      tell({ host: "", port: 0, allowed, cause: "many", reason, at: now(), count });
    },
  });

  return {
    record(event) {
      const { allowed, host, port, protocol, address, reason } = event;
      const key = JSON.stringify([allowed, host, port, protocol, address, reason]);
      const decision = { ...event, at: now() };
      counts[event.allowed ? "allowed" : "denied"]++;
      remember(key, decision);
      window.add(key, decision);
    },
    decisions: () => [...remembered.values()],
    counts: () => ({ ...counts }),
    flush: window.flush,
  };
}
