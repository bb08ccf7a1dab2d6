import { findProgramNow } from "../programs.ts";
import { interfaceWithIPv6, network } from "./sandbox-network.ts";
import { tunMissing } from "./tun.ts";
import type { Uplink } from "./uplink.ts";

/** It takes no connections from outside, and leads to no loopback address of the host. */
export const slirp4netns: Uplink = {
  name: "slirp4netns",
  missing(host) {
    if (findProgramNow("slirp4netns")) return tunMissing(host);
    return { why: "slirp4netns is not installed", fix: "apt-get install slirp4netns" };
  },
  command: () => ({
    argv: [
      findProgramNow("slirp4netns") ?? "/usr/bin/slirp4netns",
      "--configure",
      `--mtu=${network.mtu}`,
      "--disable-host-loopback",
      "--enable-sandbox",
      "--enable-seccomp",
      ...(interfaceWithIPv6() === undefined ? [] : ["--enable-ipv6"]),
      "--ready-fd=3",
      "--exit-fd=4",
      "--netns-type=path",
      "/proc/self/fd/0",
      network.device,
    ],
  }),
};
