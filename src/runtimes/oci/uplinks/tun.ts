import { accessSync, constants } from "node:fs";
import { readSmall } from "../../../lib/files.ts";
import type { MissingUplink, UplinkHost } from "./uplink.ts";

/** Why no network stack could have a device here, whichever it is. */
export function tunMissing({ isRootless }: UplinkHost): MissingUplink | undefined {
  if (!/^\s*200 tun$/m.test(readSmall("/proc/misc") ?? "")) {
    return { why: "the kernel has no TUN devices", fix: "modprobe tun" };
  }
  if (isRootless && !canOpen("/dev/net/tun")) {
    return { why: "users may not open /dev/net/tun", fix: "chmod 0666 /dev/net/tun" };
  }
  return undefined;
}

function canOpen(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
