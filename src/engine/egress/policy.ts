import type { DecisionCause } from "../../contracts/network.ts";
import { type Host, parseHost } from "../../lib/host-name.ts";
import { documentedPresets, type Presets } from "../../lib/presets/presets.ts";
import { internalKind } from "./addresses.ts";
import { expandRule, matchesAddress, matchesHost, matchesPort, type Rule } from "./rules.ts";

export interface EgressRules {
  allow: readonly string[];
  deny: readonly string[];
  /** What no rule denies is allowed, but for internal addresses that no rule names. */
  learn?: boolean;
}

/** What a policy says of a connection, and why. */
export interface Decision {
  allowed: boolean;
  cause: DecisionCause;
  /** One sentence, for audit and for whoever was denied. */
  reason: string;
  /** The rule that decided, as it was written, or as its preset has it; absent when none did. */
  rule?: string;
  /** The preset that the rule is of. */
  preset?: string;
}

export interface EgressPolicy {
  /** Before any name is looked up: what is denied here causes no query. */
  decide(host: string, port: number): Decision & { host?: Host };
  /** Of one address that an allowed host has; only this very address may be dialled then. */
  decideAddress(host: Host, address: string, port: number): Decision;
}

/**
 * Deny wins over allow, and what no rule allows is denied. An internal address needs more than an allowed name, because whoever
 * runs the name's DNS chooses the address: a rule that names the address or its network, or the name with `internal:`.
 * @throws WarrenError `invalid_request` for a rule that can't be read
 */
export function compilePolicy(input: EgressRules, presets: Presets = documentedPresets): EgressPolicy {
  const allow = input.allow.flatMap((text) => expandRule(text, presets));
  const deny = input.deny.flatMap((text) => expandRule(text, presets));

  const unruled = (what: string): Decision =>
    input.learn
      ? { allowed: true, cause: "learn", reason: `learn mode: no rule allows ${what} yet` }
      : { allowed: false, cause: "no_rule", reason: `no rule allows ${what}` };

  const find = (rules: readonly Rule[], port: number, matches: (rule: Rule) => boolean) =>
    rules.find((rule) => matchesPort(rule, port) && matches(rule));

  return {
    decide(text, port) {
      const host = parseHost(text);
      if (!host) {
        return {
          allowed: false,
          cause: "no_host",
          reason: `${JSON.stringify(text.slice(0, 300))} is no host`,
        };
      }
      if (host.kind === "address") return { ...this.decideAddress(host, host.address, port), host };
      const denied = find(deny, port, (rule) => matchesHost(rule, host));
      if (denied) return { ...no(denied), host };
      const allowed = find(allow, port, (rule) => matchesHost(rule, host));
      return { ...(allowed ? yes(allowed) : unruled(`${host.name}:${port}`)), host };
    },
    decideAddress(host, address, port) {
      const denied = find(deny, port, (rule) => matchesHost(rule, host) || matchesAddress(rule, address));
      if (denied) return no(denied);
      const named = find(allow, port, (rule) => matchesAddress(rule, address));
      if (host.kind === "address") {
        const allowed = named ?? find(allow, port, (rule) => rule.target.kind === "any");
        const decision = allowed ? yes(allowed) : unruled(bracketed(address, port));
        const kind = named ? undefined : internalKind(address);
        return decision.allowed && kind !== undefined ? internal(address, kind) : decision;
      }
      const allowed = find(allow, port, (rule) => matchesHost(rule, host));
      const decision = allowed ? yes(allowed) : unruled(`${host.name}:${port}`);
      const kind = internalKind(address);
      if (!decision.allowed || kind === undefined || named) return decision;
      const marked = find(allow, port, (rule) => rule.internal && matchesHost(rule, host));
      return marked ? yes(marked) : internal(`${host.name} (${address})`, kind);
    },
  };
}

function yes(rule: Rule): Decision {
  return { allowed: true, cause: "rule", ...naming("allowed by", rule) };
}

function no(rule: Rule): Decision {
  return { allowed: false, cause: "rule", ...naming("denied by", rule) };
}

function naming(verb: string, { text, preset }: Rule): Pick<Decision, "reason" | "rule" | "preset"> {
  if (preset === undefined) return { reason: `${verb} ${text}`, rule: text };
  return { reason: `${verb} ${text} of ${preset}`, rule: text, preset };
}

function internal(what: string, kind: string): Decision {
  return {
    allowed: false,
    cause: "internal",
    reason: `${what} is an internal address (${kind}), and no rule names it`,
  };
}

function bracketed(address: string, port: number): string {
  return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}
