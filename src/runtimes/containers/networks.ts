import { isIPv4 } from "node:net";
import type { Capabilities } from "../../contracts/runtime.ts";
import { readText } from "../../lib/files.ts";
import { hostNetworkIsWeak } from "../common/open-network.ts";
import { containerCapabilities } from "./capabilities.ts";

export type MissingNetworks = NonNullable<Capabilities["networkMissing"]>;

export const elsewhere: MissingNetworks = {
  open: { why: "the engine runs on another machine, whose networks could not be held back" },
  host: { why: "the engine runs on another machine, whose network is not this one's" },
};

/** The modes that are left, and why the others are not. */
export function networksWithout(
  missing: MissingNetworks,
  strict: boolean,
): Pick<Capabilities, "networkModes" | "networkMissing"> {
  const all = strict ? { ...missing, host: hostNetworkIsWeak } : missing;
  return {
    networkModes: containerCapabilities.networkModes.filter((mode) => !(mode in all)),
    ...(Object.keys(all).length > 0 ? { networkMissing: all } : {}),
  };
}

/** Where a resolver of this machine alone stands in the usual file, systemd has those that it asks here. */
const resolverFiles = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/** Name servers of this machine that a container can ask: those on its loopback it can't. */
export async function hostNameServers(): Promise<string[]> {
  for (const file of resolverFiles) {
    const text = (await readText(file).catch(() => undefined)) ?? "";
    const found = [...text.matchAll(/^\s*nameserver\s+(\S+)/gm)]
      .map((match) => match[1] ?? "")
      .filter((address) => isIPv4(address) && !address.startsWith("127."));
    if (found.length > 0) return found.slice(0, 3);
  }
  return [];
}
