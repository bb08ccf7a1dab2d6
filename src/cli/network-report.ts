import type { SandboxApi } from "../contracts/api.ts";
import type { NetworkDecision } from "../contracts/network.ts";
import { say } from "./output.ts";
import { safe } from "./render.ts";

/** Connections that are told of at the end of a command; the log has the others. */
const MOST_TOLD = 5;

/** `host:port` as rules have it; of a protocol without ports the host. */
export function endpoint({ host, port }: Pick<NetworkDecision, "host" | "port">): string {
  if (port === 0) return host;
  const isBare = host.includes(":") && !host.startsWith("[");
  return `${isBare ? `[${host}]` : host}:${port}`;
}

/** The rule that allows what no rule allows; undefined where none does, or no host could be named safely. */
function ruleFor(decision: NetworkDecision): string | undefined {
  const { cause, host } = decision;
  // It came from inside, and goes into somebody's shell.
  if (decision.allowed || !/^[a-z0-9._:[\]-]+$/i.test(host)) return undefined;
  const at = endpoint(decision);
  if (cause === "no_rule") return at;
  if (cause === "internal") return isAddress(host) ? at : `internal:${at}`;
  return undefined;
}

function optionFor(decision: NetworkDecision): string | undefined {
  const rule = ruleFor(decision);
  return rule === undefined ? undefined : `--network-allow ${quoted(rule)}`;
}

/** The command that allows what was denied. */
export function howToAllow(decision: NetworkDecision, id: string): string | undefined {
  const allowing = ruleFor(decision);
  if (allowing !== undefined) return `warren network allow ${id} ${quoted(allowing)}`;
  const { cause, rule, preset, allowed } = decision;
  const blocking = preset ?? rule;
  return !allowed && cause === "rule" && blocking
    ? `warren network remove ${id} ${quoted(blocking)}`
    : undefined;
}

/** Why it was denied, in few words. */
function why({ cause, reason, rule, preset }: NetworkDecision): string {
  if (cause === "no_rule") return "no rule allows it";
  if (cause === "internal") return "it leads to an internal address";
  if (cause === "rule") return `denied by ${preset ?? rule ?? "a rule"}`;
  return reason;
}

/**
 * Says what a command wanted and did not get since `since`. That it can't be said is no failure of the command. `goes`: the sandbox
 * is about to be removed, and only another one can have other rules.
 */
export async function sayBlocked(
  api: SandboxApi,
  id: string,
  { since = 0, goes = false }: { since?: number; goes?: boolean } = {},
): Promise<void> {
  const decisions = await api.network.decisions(id).catch((): NetworkDecision[] => []);
  const blocked = decisions.filter(
    ({ allowed, cause, at = "", last_at = at }) =>
      !allowed && cause !== "many" && Date.parse(last_at) >= since,
  );
  const byPlace = [
    ...new Map(blocked.map((decision) => [`${endpoint(decision)} ${decision.cause}`, decision])).values(),
  ];
  for (const decision of byPlace.slice(0, MOST_TOLD)) {
    const command = goes ? optionFor(decision) : howToAllow(decision, id);
    const hint = command === undefined ? "" : ` – allow with: ${command}`;
    await say(safe(`blocked: ${endpoint(decision)} (${why(decision)})${hint}`));
  }
  if (byPlace.length > MOST_TOLD) {
    const hint = goes ? "" : ` – see: warren network log ${id} --denied`;
    await say(safe(`blocked: ${byPlace.length - MOST_TOLD} more${hint}`));
  }
}

/** Says which rules allow what was reached in learn mode, ready to be pasted. */
export async function sayLearnt(api: SandboxApi, id: string): Promise<void> {
  const state = await api.network.get(id).catch(() => undefined);
  if (!state?.rules.learn) return;
  const { learnt = [] } = state;
  if (learnt.length === 0) await say("learnt: nothing was reached");
  else await say(safe(`learnt: ${learnt.map((rule) => `--network-allow ${quoted(rule)}`).join(" ")}`));
}

function isAddress(host: string): boolean {
  return host.includes(":") || /^[0-9.]+$/.test(host);
}

/** A word as a shell takes it. */
function quoted(word: string): string {
  return /^[\w.:/@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
