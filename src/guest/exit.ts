import { constants } from "node:os";
import { brokenProtocol } from "./decoder.ts";
import { exitFlags } from "./frames.ts";
import { readPayload } from "./reader.ts";
import type { GuestExit } from "./types.ts";

/** What a shell reports for a command that `timeout` ended. */
const TIMED_OUT_CODE = 124;
/** First real-time signal that programs may use (glibc and musl keep 32 and 33, musl 34 too). */
const SIGRTMIN = 34;

const names = new Map<number, string>();
for (const [name, number] of Object.entries(constants.signals)) {
  // Some numbers have an old second name; the usual one comes first, but for these.
  if (!names.has(number)) names.set(number, name);
}
names.set(6, "SIGABRT");
names.set(17, "SIGCHLD");
names.set(29, "SIGIO");
names.set(31, "SIGSYS");

export function signalName(number: number): string {
  return names.get(number) ?? (number >= SIGRTMIN ? `SIGRTMIN+${number - SIGRTMIN}` : `SIG${number}`);
}

/** Parses an EXIT frame. */
export function parseExit(payload: Buffer): GuestExit {
  const r = readPayload(payload);
  const kind = r.u8();
  const value = r.u32();
  const flags = r.u32();
  const cpuTimeUs = r.u64();
  r.end();
  const isSignal = kind === 1;
  if (kind > 1 || value > 255 || (isSignal && (value < 1 || value > 64)))
    throw brokenProtocol("an exit status");
  const timedOut = (flags & exitFlags.timedOut) !== 0;
  return {
    exit_code: timedOut ? TIMED_OUT_CODE : isSignal ? 128 + value : value,
    ...(isSignal ? { signal: signalName(value) } : {}),
    ...(timedOut ? { timed_out: true } : {}),
    stdoutTruncated: (flags & exitFlags.stdoutCut) !== 0,
    stderrTruncated: (flags & exitFlags.stderrCut) !== 0,
    cpuTimeUs,
  };
}

/** What a tree that was killed on our word ended with, when the guest's own account of it does not come. */
export function killedExit(): GuestExit {
  return {
    exit_code: 128 + constants.signals.SIGKILL,
    signal: "SIGKILL",
    stdoutTruncated: false,
    stderrTruncated: false,
    cpuTimeUs: 0,
  };
}
