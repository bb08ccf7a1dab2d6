import { accessSync, constants, readFileSync } from "node:fs";
import { isIPv4 } from "node:net";
import { networkInterfaces } from "node:os";
import { findProgramNow } from "./programs.ts";

/** The largest that slirp4netns takes; one packet is one copy. */
const MTU = 65_520;

/**
 * The user-mode network stack of one sandbox, run by the launcher with its network namespace as descriptor 3. It has neither
 * capabilities nor files, takes no connections from outside, and leads to no loopback address of the host.
 */
export function uplinkArgv(): string[] {
  return [
    findProgramNow("slirp4netns") ?? "/usr/bin/slirp4netns",
    "--configure",
    `--mtu=${MTU}`,
    "--disable-host-loopback",
    "--enable-sandbox",
    "--enable-seccomp",
    ...(hasIPv6() ? ["--enable-ipv6"] : []),
    "--ready-fd=4",
    "--exit-fd=5",
    "--netns-type=path",
    "/proc/self/fd/3",
    "tap0",
  ];
}

/** Why sandboxes here can't have open network; undefined when they can, as far as can be seen without trying. */
export function uplinkMissing(isRootless: boolean): { why: string; fix: string } | undefined {
  if (!findProgramNow("slirp4netns")) {
    return { why: "slirp4netns is not installed", fix: "apt-get install slirp4netns" };
  }
  if (!/^\s*200 tun$/m.test(read("/proc/misc"))) {
    return { why: "the kernel has no TUN devices", fix: "modprobe tun" };
  }
  if (isRootless && !canOpen("/dev/net/tun")) {
    return { why: "users may not open /dev/net/tun", fix: "chmod 0666 /dev/net/tun" };
  }
  return undefined;
}

/** An address that leads somewhere, not only to neighbours. */
function hasIPv6(): boolean {
  return Object.values(networkInterfaces()).some((addresses = []) =>
    addresses.some(({ address, internal }) => !internal && !isIPv4(address) && /^[23]/.test(address)),
  );
}

function canOpen(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
