import { internalKind } from "./addresses.ts";
import { type Host, parseHost } from "./host-name.ts";
import { matchesAddress, matchesHost, matchesPort, parseRule, type Rule } from "./rules.ts";

/** What a policy says of a connection, and why. */
export interface Decision {
  allowed: boolean;
  /** One sentence, for audit and for whoever was denied. */
  reason: string;
  /** The rule that decided, as it was written; absent when none did. */
  rule?: string;
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
export function compilePolicy(input: { allow: readonly string[]; deny: readonly string[] }): EgressPolicy {
  const allow = input.allow.map(parseRule);
  const deny = input.deny.map(parseRule);

  const find = (rules: readonly Rule[], port: number, matches: (rule: Rule) => boolean) =>
    rules.find((rule) => matchesPort(rule, port) && matches(rule));

  return {
    decide(text, port) {
      const host = parseHost(text);
      if (!host) return { allowed: false, reason: `${JSON.stringify(text.slice(0, 300))} is no host` };
      if (host.kind === "address") return { ...this.decideAddress(host, host.address, port), host };
      const denied = find(deny, port, (rule) => matchesHost(rule, host));
      if (denied) return { ...no(denied), host };
      const allowed = find(allow, port, (rule) => matchesHost(rule, host));
      if (!allowed) return { allowed: false, reason: `no rule allows ${host.name}:${port}`, host };
      return { ...yes(allowed), host };
    },
    decideAddress(host, address, port) {
      const denied = find(deny, port, (rule) => matchesHost(rule, host) || matchesAddress(rule, address));
      if (denied) return no(denied);
      const named = find(allow, port, (rule) => matchesAddress(rule, address));
      if (host.kind === "address") {
        const allowed = named ?? find(allow, port, (rule) => rule.target.kind === "any");
        if (!allowed) return { allowed: false, reason: `no rule allows ${address}:${port}` };
        const kind = named ? undefined : internalKind(address);
        return kind === undefined ? yes(allowed) : internal(address, kind);
      }
      const allowed = find(allow, port, (rule) => matchesHost(rule, host));
      if (!allowed) return { allowed: false, reason: `no rule allows ${host.name}:${port}` };
      const kind = internalKind(address);
      if (kind === undefined || named) return yes(allowed);
      const marked = find(allow, port, (rule) => rule.internal && matchesHost(rule, host));
      return marked ? yes(marked) : internal(`${host.name} (${address})`, kind);
    },
  };
}

function yes(rule: Rule): Decision {
  return { allowed: true, reason: `allowed by ${rule.text}`, rule: rule.text };
}

function no(rule: Rule): Decision {
  return { allowed: false, reason: `denied by ${rule.text}`, rule: rule.text };
}

function internal(what: string, kind: string): Decision {
  return { allowed: false, reason: `${what} is an internal address (${kind}), and no rule names it` };
}
