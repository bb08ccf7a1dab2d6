import { isIPv4 } from "node:net";
import { readSmall } from "../../../lib/files.ts";
import { run } from "../../../lib/run.ts";
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
  async unfit() {
    const path = findProgramNow("pasta") ?? "";
    const said = await run(path, ["--version"], { timeoutMs: 10_000 }).catch(() => undefined);
    const date = dateOfVersion(said?.stdout.toString("utf8") ?? "");
    if (date !== undefined && date >= OLDEST_FIT) return undefined;
    return {
      why: `pasta ${date === undefined ? "tells no version" : `is of ${date}`}, and before ${OLDEST_FIT} it may hang, or repeat what a server says`,
      fix: "apt-get install slirp4netns",
    };
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

/**
 * The one that has been tried. That of March 2023, which Debian 12 has and which doesn't tell its version, loses count where a
 * client ends its direction at once: answers come without an end, or many times.
 */
const OLDEST_FIT = 20_250_503;

/** As a number: versions are called 2025_05_03.587980c, or 0.0~git20250503.587980c-2 by distributions. */
export function dateOfVersion(text: string): number | undefined {
  const [, year, month, day] = /(20\d\d)_?([01]\d)_?([0-3]\d)/.exec(text) ?? [];
  return year === undefined ? undefined : Number(`${year}${month}${day}`);
}

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
