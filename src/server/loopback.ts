import { BlockList, isIP } from "node:net";

const loopback = new BlockList();
loopback.addSubnet("127.0.0.0", 8, "ipv4");
loopback.addAddress("::1", "ipv6");

/** True for 127.0.0.0/8 and ::1, the IPv4-mapped form included. */
export function isLoopbackAddress(address: string): boolean {
  const plain = address.replace(/^::ffff:(?=\d+\.)/i, "");
  const family = isIP(plain);
  return family !== 0 && loopback.check(plain, family === 6 ? "ipv6" : "ipv4");
}

/** True for a loopback address as written in a URL, and for the names that browsers never ask DNS about (RFC 6761). */
export function isLoopbackName(host: string): boolean {
  return (
    // The usual ones first: the list below is slow.
    host === "127.0.0.1" ||
    host === "localhost" ||
    host.endsWith(".localhost") ||
    isLoopbackAddress(host.replace(/^\[(.*)\]$/, "$1"))
  );
}
