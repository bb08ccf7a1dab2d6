import { setTimeout as sleep } from "node:timers/promises";
import type { SandboxApi } from "../contracts/api.ts";
import type { AnyCredentials } from "../contracts/credentials.ts";
import type { GivenCredentials } from "./credentials.ts";
import { runForValue } from "./given-values.ts";

/** Before their end: SDKs want new ones that early. */
const AHEAD_MS = 15 * 60_000;
/** Of a token that doesn't say when it ends. */
const UNKNOWN_END_MS = 10 * 60_000;
const LEAST_MS = 500;
const RETRY_MS = 30_000;
/** A timer takes no more. */
const MOST_MS = 2 ** 31 - 1;
const COMMAND_TIMEOUT_MS = 60_000;

/** Has the commands that credentials came from print new ones before they end, until disposed. What fails is said, and tried again. */
export function renewCredentials(
  api: Pick<SandboxApi, "credentials">,
  id: string,
  given: readonly GivenCredentials[],
  complain: (sentence: string) => void,
): Disposable {
  const stop = new AbortController();
  for (const one of given) {
    renew(api, id, one, complain, stop.signal).catch(() => {}); // stopped
  }
  return { [Symbol.dispose]: () => stop.abort() };
}

async function renew(
  api: Pick<SandboxApi, "credentials">,
  id: string,
  { kind, value, renewal }: GivenCredentials,
  complain: (sentence: string) => void,
  signal: AbortSignal,
): Promise<void> {
  if (!renewal) return;
  let wait = untilRenewal(value, Date.now());
  let said = "";
  while (wait !== undefined) {
    await sleep(wait, undefined, { signal, ref: false });
    try {
      const next = renewal.parse(await runForValue(renewal.command, COMMAND_TIMEOUT_MS, signal));
      await api.credentials.put(id, kind, next);
      wait = untilRenewal(next, Date.now());
      said = "";
    } catch (error) {
      if (signal.aborted) return;
      const why = (error as Error).message;
      if (why !== said) complain(`the credentials ${kind} could not be renewed, and are tried again: ${why}`);
      said = why;
      wait = RETRY_MS;
    }
  }
}

/** Milliseconds; undefined: never. Half of a life that is short. */
export function untilRenewal(value: AnyCredentials, now: number): number | undefined {
  const end = endOf(value, now);
  if (end === undefined) return "access_token" in value ? UNKNOWN_END_MS : undefined;
  const left = end - now;
  return Math.min(Math.max(left - AHEAD_MS, left / 2, LEAST_MS), MOST_MS);
}

function endOf(value: AnyCredentials, now: number): number | undefined {
  if (!("access_token" in value))
    return value.Expiration === undefined ? undefined : Date.parse(value.Expiration);
  if (value.expires_in !== undefined) return now + value.expires_in * 1000;
  return value.expires_at === undefined ? undefined : Date.parse(value.expires_at);
}
