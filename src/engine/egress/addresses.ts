import { BlockList, isIPv4, isIPv6 } from "node:net";

/**
 * Addresses that are not the public internet: of this host, of networks around it, of the kernel's and clouds' own services.
 * Source: the IANA special-purpose registries (iana-ipv4-special-registry, iana-ipv6-special-registry), all entries that are not
 * globally reachable, multicast, and 168.63.129.16, Azure's host service.
 */
const internalRanges: readonly (readonly [network: string, prefix: number, name: string])[] = [
  ["0.0.0.0", 8, "this host"],
  ["10.0.0.0", 8, "private"],
  ["100.64.0.0", 10, "carrier-grade NAT"],
  ["127.0.0.0", 8, "loopback"],
  ["168.63.129.16", 32, "cloud metadata"],
  ["169.254.0.0", 16, "link-local"],
  ["172.16.0.0", 12, "private"],
  ["192.0.0.0", 24, "protocol assignments"],
  ["192.0.2.0", 24, "documentation"],
  ["192.88.99.0", 24, "6to4 relay"],
  ["192.168.0.0", 16, "private"],
  ["198.18.0.0", 15, "benchmarking"],
  ["198.51.100.0", 24, "documentation"],
  ["203.0.113.0", 24, "documentation"],
  ["224.0.0.0", 4, "multicast"],
  ["240.0.0.0", 4, "reserved"],
  ["::", 96, "this host"],
  ["::ffff:0:0:0", 96, "translated"],
  ["64:ff9b:1::", 48, "local NAT64"],
  ["100::", 64, "discard"],
  ["2001::", 23, "protocol assignments"],
  ["2001:db8::", 32, "documentation"],
  ["3fff::", 20, "documentation"],
  ["5f00::", 16, "segment routing"],
  ["fc00::", 7, "private"],
  ["fe80::", 10, "link-local"],
  ["fec0::", 10, "site-local"],
  ["ff00::", 8, "multicast"],
];

const lists = internalRanges.map(([network, prefix, name]) => {
  const list = new BlockList();
  list.addSubnet(network, prefix, familyOf(network));
  return { list, family: familyOf(network), name };
});

/**
 * All of them, for who can't take addresses apart: IPv6 networks that carry one in NAT64 or 6to4 are among them, and all
 * IPv4-mapped ones, which are never on a wire.
 */
export function internalNetworks(): string[] {
  const carrying = internalRanges
    .filter(([network]) => isIPv4(network))
    .flatMap(([network, prefix]) => {
      const [a = 0, b = 0, c = 0, d = 0] = network.split(".").map(Number);
      const [high, low] = [(a << 8) | b, (c << 8) | d].map((word) => word.toString(16));
      return [`64:ff9b::${high}:${low}/${96 + prefix}`, `2002:${high}:${low}::/${16 + prefix}`];
    });
  return [...internalRanges.map(([network, prefix]) => `${network}/${prefix}`), "::ffff:0:0/96", ...carrying];
}

/**
 * What kind of internal address this is; undefined for the public internet. IPv6 addresses that carry an IPv4 one (mapped,
 * NAT64, 6to4) are what that is.
 * @param address canonical IPv4 or IPv6, without a zone
 */
export function internalKind(address: string): string | undefined {
  const inner = carriedIPv4(address);
  if (inner !== undefined) return internalKind(inner);
  const family = familyOf(address);
  return lists.find((entry) => entry.family === family && entry.list.check(address, family))?.name;
}

/** The IPv4 address in an IPv4-mapped (::ffff:0:0/96), NAT64 (64:ff9b::/96) or 6to4 (2002::/16) address. */
export function carriedIPv4(address: string): string | undefined {
  if (!isIPv6(address)) return undefined;
  const words = ipv6Words(address);
  const [a, b, c, d, e, f, g = 0, h = 0] = words;
  const zero = (...values: (number | undefined)[]) => values.every((value) => value === 0);
  if (zero(a, b, c, d, e) && f === 0xffff) return dotted(g, h);
  if (a === 0x64 && b === 0xff9b && zero(c, d, e, f)) return dotted(g, h);
  if (a === 0x2002) return dotted(b ?? 0, c ?? 0);
  return undefined;
}

export function familyOf(address: string): "ipv4" | "ipv6" {
  return isIPv4(address) ? "ipv4" : "ipv6";
}

function dotted(high: number, low: number): string {
  return [high >> 8, high & 0xff, low >> 8, low & 0xff].join(".");
}

/** Of an address that `isIPv6` takes. */
function ipv6Words(address: string): number[] {
  const plain = address
    .replace(/%.*$/, "")
    .replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_all, ...parts: string[]) => {
      const [a = 0, b = 0, c = 0, d = 0] = parts.slice(0, 4).map(Number);
      return `${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
    });
  const [head = "", tail] = plain.split("::");
  const parse = (text: string) =>
    text === "" ? [] : text.split(":").map((word) => Number.parseInt(word, 16));
  const [before, after] = [parse(head), tail === undefined ? [] : parse(tail)];
  return [...before, ...Array<number>(Math.max(0, 8 - before.length - after.length)).fill(0), ...after];
}
