import { readSmall, readText } from "../../lib/files.ts";

/** A process that can't be mistaken for a later one with the same pid. */
export interface ProcessId {
  pid: number;
  startTime: bigint;
}

/** The guest that the launcher recorded, when exactly that process is still alive. */
export async function liveGuest(pidFile: string): Promise<ProcessId | undefined> {
  const match = /^(\d+) (\d+)\n$/.exec(readSmall(pidFile) ?? "");
  if (!match) return undefined;
  const pid = Number(match[1]);
  const startTime = BigInt(match[2] as string);
  return startTime !== 0n && processStart(pid) === startTime ? { pid, startTime } : undefined;
}

/** Of a process that lives. */
export function processId(pid: number): ProcessId | undefined {
  const startTime = pid > 0 ? processStart(pid) : undefined;
  return startTime === undefined ? undefined : { pid, startTime };
}

/** Clock ticks since boot (proc(5), field 22 of stat); undefined when it is gone or a zombie. */
function processStart(pid: number): bigint | undefined {
  let stat: string | undefined;
  try {
    stat = readSmall(`/proc/${pid}/stat`);
  } catch (error) {
    // It went away between open and read.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
  // The name (field 2) may hold anything, so count from its closing parenthesis.
  const fields = stat?.slice(stat.lastIndexOf(")") + 2).split(" ");
  const state = fields?.[0];
  if (!fields || state === "Z" || state === "X") return undefined;
  return BigInt(fields[19] ?? 0);
}

/** First host id of a process's user namespace. */
export async function mappedBase(pid: number): Promise<number | undefined> {
  const map = await readText(`/proc/${pid}/uid_map`).catch(() => undefined);
  const match = /^\s*0\s+(\d+)\s+\d+/.exec(map ?? "");
  return match ? Number(match[1]) : undefined;
}

/** Bytes received and sent over all interfaces but loopback. */
export async function networkBytes(pid: number): Promise<{ network_rx: number; network_tx: number }> {
  const sum = { network_rx: 0, network_tx: 0 };
  const text = (await readText(`/proc/${pid}/net/dev`).catch(() => undefined)) ?? "";
  for (const line of text.split("\n").slice(2)) {
    const [name, numbers] = line.split(":");
    if (!numbers || name?.trim() === "lo") continue;
    const columns = numbers.trim().split(/\s+/).map(Number);
    sum.network_rx += columns[0] ?? 0;
    sum.network_tx += columns[8] ?? 0;
  }
  return sum;
}
