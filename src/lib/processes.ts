import { readFileSync } from "node:fs";

/** A process of this host, told apart from a later one with the same pid by when it started. */
export interface ProcessIdentity {
  pid: number;
  /** Clock ticks since boot: field 22 of /proc/pid/stat. */
  startTime: number;
}

export interface ProcessStat extends ProcessIdentity {
  /** As /proc tells it: `R`, `S`, `Z`… */
  state: string;
  parent: number;
  /** User and system time of its own and of the children that it has waited for, in clock ticks. */
  cpuTicks: number;
}

/** undefined when there is no such process. */
export function readProcess(pid: number): ProcessStat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return undefined;
  }
  // The name in parentheses may hold anything, closing parentheses and spaces too.
  const [state = "", ...fields] = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const field = (number: number) => Number(fields[number - 4]);
  return {
    pid,
    state,
    parent: field(4),
    cpuTicks: field(14) + field(15) + field(16) + field(17),
    startTime: field(22),
  };
}

/** False once it has ended, even if nobody has waited for it yet. */
export function isAlive({ pid, startTime }: ProcessIdentity): boolean {
  const found = readProcess(pid);
  return found?.startTime === startTime && found.state !== "Z" && found.state !== "X";
}

/** Sends a signal to exactly this process; false when it has ended. */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): boolean {
  if (!isAlive(identity)) return false;
  try {
    return process.kill(identity.pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
    throw error;
  }
}

/** Waits until the process has ended. False when it lives on after `timeoutMs`. */
export async function waitForEnd(identity: ProcessIdentity, timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  // Node has no pidfd. Most ends are near: a short first look, then ever longer ones.
  for (let pause = 1; isAlive(identity); pause = Math.min(pause * 2, 50)) {
    const left = deadline - performance.now();
    if (left <= 0) return false;
    await new Promise((resolve) => setTimeout(resolve, Math.min(pause, left)));
  }
  return true;
}
