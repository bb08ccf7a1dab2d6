import { WarrenError } from "../contracts/errors.ts";
import type { NetworkPolicy, NetworkRules } from "../contracts/network.ts";
import type { NetworkMode } from "../contracts/runtime.ts";

/**
 * What agh's `NetworkPolicy` means here. Its lists are rules; a list of what is allowed narrows `allow_outbound`, and without one that
 * means everything. Where that can't be enforced, a policy that is `required` is refused, and another gets what is stricter, never
 * what is looser.
 * @param modes that the sandbox could have
 * @throws WarrenError `unsupported`, `invalid_request`
 */
export function fromNetworkPolicy(
  policy: NetworkPolicy,
  { modes, ports }: { modes: readonly NetworkMode[]; ports: readonly { address: string }[] },
): { network_mode: NetworkMode; network?: NetworkRules } {
  const { allow_outbound: outbound = false, allow_list: allow = [], deny_list: deny = [] } = policy;
  if (!policy.allow_public_ingress && ports.some(({ address }) => !isLoopback(address))) {
    throw new WarrenError(
      "invalid_request",
      "network_policy: without allow_public_ingress no port is published beyond this machine",
      { hint: "publish it on 127.0.0.1, or allow public ingress" },
    );
  }
  const everything = outbound && allow.length === 0;
  const rules: NetworkRules = {
    ...(everything ? { allow: ["*"] } : allow.length > 0 ? { allow } : {}),
    ...(deny.length > 0 ? { deny } : {}),
  };
  const isFiltered = allow.length > 0 || deny.length > 0;
  if (!isFiltered && !outbound) return { network_mode: "none" };
  const wanted: NetworkMode = isFiltered ? "filtered" : "open";
  const filtered = { network_mode: "filtered", network: rules } as const;
  if (modes.includes(wanted)) return isFiltered ? filtered : { network_mode: wanted };
  if (policy.required) {
    throw new WarrenError(
      "unsupported",
      `network_policy: it is required, and there is no network ${JSON.stringify(wanted)} here to enforce it`,
      { hint: `without \`required\` it gets what is stricter; there is: ${modes.join(", ")}` },
    );
  }
  return modes.includes("filtered") ? filtered : { network_mode: "none" };
}

function isLoopback(address: string): boolean {
  return address === "::1" || /^127\./.test(address);
}
