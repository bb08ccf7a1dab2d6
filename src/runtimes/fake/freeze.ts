import { WarrenError } from "../../contracts/errors.ts";
import { type ProcessIdentity, type ProcessStat, readProcess, signalProcess } from "../../lib/processes.ts";
import { processesBeside } from "./processes.ts";

/** How long the kernel may take to stop what was sent SIGSTOP. */
const STOP_TIMEOUT_MS = 5_000;

/**
 * Stops everything that runs beside this process, the first of a pid namespace, which is stopped first and goes on last: it
 * takes a child that it sees stopped for a payload's work.
 * @throws WarrenError `runtime_failed` when something does not stop; then all of it goes on.
 */
export async function freeze(guest: ProcessIdentity): Promise<AsyncDisposable> {
  const stopped = new Map<number, ProcessIdentity>();
  const stop = (victim: ProcessStat) => {
    if (!isStopped(victim) && signalProcess(victim, "SIGSTOP")) stopped.set(victim.pid, victim);
  };
  const goOn = async () => {
    const inside = [...stopped.values()].filter(({ pid }) => pid !== guest.pid);
    for (const victim of [...inside, guest]) signalProcess(victim, "SIGCONT");
  };
  const first = readProcess(guest.pid);
  if (first) stop(first);
  const deadline = performance.now() + STOP_TIMEOUT_MS;
  // What forks meanwhile leaves a child that is stopped in the next round.
  for (;;) {
    const moving = processesBeside(guest.pid).filter((process) => !isStopped(process));
    if (moving.length === 0) return { [Symbol.asyncDispose]: goOn };
    if (performance.now() > deadline) break;
    for (const victim of moving) stop(victim);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await goOn();
  throw new WarrenError("runtime_failed", "the sandbox's processes do not stop");
}

/** Has everything go on that an engine stopped which ended before it came to that. */
export function thaw(guest: ProcessIdentity): void {
  const inside = processesBeside(guest.pid).filter(({ pid }) => pid !== guest.pid);
  for (const victim of [...inside, guest]) signalProcess(victim, "SIGCONT");
}

function isStopped({ state }: ProcessStat): boolean {
  return /^[TtZX]$/.test(state);
}
