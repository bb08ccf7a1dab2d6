import { isIPv4 } from "node:net";
import { networkInterfaces } from "node:os";

/**
 * The network that a sandbox finds itself in, whatever carries its packets: slirp4netns's own (slirp4netns(1)), with names asked of
 * SLIRP_NAME_SERVER.
 */
export const network = {
  device: "tap0",
  /** The largest that every stack takes; one packet is one copy. */
  mtu: 65_520,
  ipv4: { address: "10.0.2.100", bits: 24, gateway: "10.0.2.2" },
  ipv6: { address: "fd00::100", gateway: "fd00::2" },
} as const;

/** The interface of this machine that has an IPv6 address which leads somewhere, not only to neighbours. */
export function interfaceWithIPv6(interfaces = networkInterfaces()): string | undefined {
  return Object.entries(interfaces).find(([, addresses = []]) =>
    addresses.some(({ address, internal }) => !internal && !isIPv4(address) && /^[23]/.test(address)),
  )?.[0];
}
