import { WarrenError } from "../contracts/errors.ts";
import type { NetworkRules } from "../contracts/network.ts";
import type { NetworkReach } from "../contracts/runtime.ts";
import { internalNetworks } from "./egress/addresses.ts";
import { parseRule } from "./egress/rules.ts";

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
