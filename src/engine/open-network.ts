import { BlockList } from "node:net";
import type { Caller } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { NetworkDecision, NetworkRules } from "../contracts/network.ts";
import type { NetworkReach } from "../contracts/runtime.ts";
import { parseHost } from "../lib/host-name.ts";
import { asWarrenError, type Core, runtimeOf } from "./core.ts";
import { carriedIPv4, familyOf, internalKind, internalNetworks } from "./egress/addresses.ts";
import { auditNetwork } from "./egress/policy-audit.ts";
import { parseRule } from "./egress/rules.ts";
import type { SandboxRecord } from "./record.ts";

/** Each is a rule or two of the sandbox's packet filter, which are looked at one after the other. */
const MOST_RULES = 200;

/**
 * What open network reaches with these rules: they are about packets, so that only addresses and networks can be named.
 * @throws WarrenError `invalid_request`, `unsupported`
 */
export function openReach({ allow = [], deny = [] }: NetworkRules): NetworkReach {
  if (allow.length + deny.length > MOST_RULES) {
    throw new WarrenError(
      "invalid_request",
      `network: more than ${MOST_RULES} rules in the network mode open`,
    );
  }
  return {
    rules: [...deny.map((rule) => `-${packetRule(rule)}`), ...allow.map((rule) => `+${packetRule(rule)}`)],
    internal: internalNetworks(),
  };
}

function packetRule(text: string): string {
  const { target, ports } = parseRule(text);
  if (target.kind !== "network") {
    throw new WarrenError(
      "unsupported",
      `network: ${JSON.stringify(text)} names no address, and in the network mode open nothing else is enforced`,
      { hint: 'name an address or network, such as 10.1.2.0/24:443, or use "network_mode": "filtered"' },
    );
  }
  const isAll = ports.from === 1 && ports.to === 65_535;
  return isAll ? target.cidr : `${target.cidr}@${ports.from}-${ports.to}`;
}

/**
 * Puts other rules in force, for open connections too. In the sandbox's turn, when its runtime is open.
 * @throws WarrenError what `openReach` throws, and why they can't be in force; the old ones are then
 */
export async function changeOpenRules(
  core: Core,
  record: SandboxRecord,
  rules: NetworkRules,
  change: { action: "set" | "change"; by: Caller | undefined },
): Promise<SandboxRecord> {
  const { id, spec, network } = record;
  if (!spec) throw new WarrenError("internal", `the record of sandbox ${id} has no spec`);
  const reach = openReach(rules);
  const updated = core.table.update(id, { network: rules, spec: { ...spec, reach } });
  auditNetwork(core, id, change.action, { mode: "open", rules }, change.by);
  try {
    await runtimeOf(core, record).updateReach(id, reach);
  } catch (cause) {
    core.table.update(id, { network, spec });
    auditNetwork(core, id, "set", { mode: "open", rules: network ?? {} }, change.by);
    core.runtimes.note(record.runtime, cause);
    throw asWarrenError(cause, `the network rules of sandbox ${id} could not be changed`);
  }
  return updated;
}

/**
 * What the packets to an address meet.
 * @param items what the runtime says that it looks at, in order
 * @throws WarrenError `invalid_request` for what is no address
 */
export function explainOpen(
  host: string,
  port: number,
  items: readonly string[],
  { allow = [], deny = [] }: NetworkRules,
): Pick<NetworkDecision, "allowed" | "cause" | "reason" | "rule"> {
  const parsed = parseHost(host);
  if (parsed?.kind !== "address") {
    throw new WarrenError(
      "invalid_request",
      "host: open network decides on addresses, whatever their names",
      {
        hint: "look the name up, and name the address that it leads to",
      },
    );
  }
  // IPv6 addresses that stand for IPv4 ones are on no wire.
  const isMapped = parsed.address.startsWith("::ffff:");
  const address = (isMapped ? carriedIPv4(parsed.address) : undefined) ?? parsed.address;
  const index = items.findIndex((item) => isAbout(item, address, port));
  const item = items[index];
  if (item === undefined) {
    return { allowed: true, cause: "open", reason: "open network reaches what no rule denies" };
  }
  const allowed = item.startsWith("+");
  // In the order of `openReach`; after them comes what a runtime adds.
  const rule = [...deny, ...allow][index];
  if (rule !== undefined) {
    return { allowed, cause: "rule", reason: `${allowed ? "allowed" : "denied"} by ${rule}`, rule };
  }
  if (allowed) return { allowed, cause: "open", reason: "it is the sandbox's name server" };
  const kind = internalKind(address) ?? "of a network that this machine is in";
  return {
    allowed,
    cause: "internal",
    reason: `${address} is an internal address (${kind}), and no rule names it`,
  };
}

function isAbout(item: string, address: string, port: number): boolean {
  const [, network = "", bits, from, to] = /^[+-](.+)\/(\d+)(?:@(\d+)-(\d+))?$/.exec(item) ?? [];
  const family = familyOf(network);
  if (family !== familyOf(address) || (from !== undefined && (port < Number(from) || port > Number(to))))
    return false;
  const list = new BlockList();
  list.addSubnet(network, Number(bits), family);
  return list.check(address, family);
}
