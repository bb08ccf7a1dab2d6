import { isIPv4 } from "node:net";
import { readSmall } from "../../../lib/files.ts";
import { SLIRP_NAME_SERVER } from "../../common/open-network.ts";
import { findProgramNow } from "../programs.ts";
import { interfaceWithIPv6, network } from "./sandbox-network.ts";
import { tunMissing } from "./tun.ts";
import type { Uplink } from "./uplink.ts";

/**
 * Of passt. By itself it gives a namespace the host's own addresses, its loopback at the gateway's address, and forwards ports both
 * ways: all of that is turned off. Newer ones close all descriptors but the first three, so these are what it is told of.
 */
export const pasta: Uplink = {
  name: "pasta",
  missing(host) {
    if (findProgramNow("pasta")) return tunMissing(host);
    return { why: "pasta is not installed", fix: "apt-get install passt" };
  },
  command: () => ({
    argv: [
      findProgramNow("pasta") ?? "/usr/bin/pasta",
      "--foreground",
      "--quiet",
      ...["--netns", "/proc/self/fd/0", "--no-netns-quit"],
      ...["--pid", "/proc/self/fd/1"],
      ...["--config-net", "--ns-ifname", network.device, "--mtu", String(network.mtu)],
      ...["--no-dhcp", "--no-dhcpv6", "--no-ra", "--no-map-gw"],
      ...["--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"],
      ...["--mac-addr", GATEWAY_MAC],
      ...["--address", network.ipv4.address, "--netmask", String(network.ipv4.bits)],
      ...["--gateway", network.ipv4.gateway],
      ...ipv6Options(interfaceWithIPv6()),
      ...nameServerOptions(readSmall("/etc/resolv.conf")),
    ],
    readyAt: "stdout",
  }),
};

/** As slirp4netns has it; else it would be that of an interface of the host. */
const GATEWAY_MAC = "52:55:0a:00:02:02";

/** It takes what it wants to know of an interface from this one, for IPv6 only a link-local address. */
function ipv6Options(name: string | undefined): string[] {
  if (name === undefined) return ["--ipv4-only", "--interface", "lo"];
  return ["--interface", name, "--address", network.ipv6.address, "--gateway", network.ipv6.gateway];
}

/** Without a name server of IPv4 it would take the host's loopback for one. */
export function nameServerOptions(resolvConf = ""): string[] {
  const servers = [...resolvConf.matchAll(/^nameserver ([^\s%]+)/gm)].map((match) => match[1] ?? "");
  return servers.some(isIPv4) ? ["--dns-forward", SLIRP_NAME_SERVER] : ["--dns", "none"];
}
