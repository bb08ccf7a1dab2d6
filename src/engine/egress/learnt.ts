import type { NetworkDecision } from "../../contracts/network.ts";
import { parseHost } from "../../lib/host-name.ts";
import { internalKind } from "./addresses.ts";

/** Rules that learn mode writes down: as many as a policy may have. */
export const MOST_LEARNT = 1000;

/** The narrowest rule that allows what was allowed here. Undefined for what no rule is about. */
export function learntRule({ allowed, host, port, address }: NetworkDecision): string | undefined {
  const parsed = parseHost(host);
  if (!allowed || !parsed || address === undefined) return undefined;
  if (parsed.kind === "address") {
    return parsed.address.includes(":") ? `[${parsed.address}]:${port}` : `${parsed.address}:${port}`;
  }
  const rule = `${parsed.name}:${port}`;
  // Only a rule of the owner's can have allowed that.
  return internalKind(address) === undefined ? rule : `internal:${rule}`;
}
