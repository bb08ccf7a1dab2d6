import { isIPv4 } from "node:net";
import { networkInterfaces } from "node:os";
import { WarrenError } from "../../contracts/errors.ts";
import type { Capabilities, ProbeFinding, RuntimeSpec } from "../../contracts/runtime.ts";
import { lastWords } from "../../lib/last-words.ts";
import { nativeProgram } from "../../lib/native.ts";
import { run } from "../../lib/run.ts";

/** slirp4netns answers name queries here, and asks the host's own name servers (slirp4netns(1), --cidr). */
export const SLIRP_NAME_SERVER = "10.0.2.3";

/** Networks shorter than this are no neighbourhood, but a mistake that would shut everything out. */
const LEAST_PREFIX = { ipv4: 8, ipv6: 32 } as const;

/** The guest's arguments that make open network safe. */
export function guardArgs(spec: RuntimeSpec, nameServers: readonly string[]): string[] {
  return spec.network === "open" ? ["--guard", guardItems(spec, nameServers).join(",")] : [];
}

/**
 * What decides in a sandbox with open network, in the order in which it is looked at: the sandbox's own rules, the port of its
 * name servers, internal networks, and those that this machine is in now.
 */
export function guardItems(
  { id, reach }: Pick<RuntimeSpec, "id" | "reach">,
  nameServers: readonly string[],
): string[] {
  const { rules, internal } = reach ?? { rules: [], internal: [] };
  // A record without it must not open what it would have closed.
  if (internal.length === 0) throw new WarrenError("runtime_failed", `the record of sandbox ${id} is broken`);
  return [
    ...rules,
    ...nameServers.map((address) => `+${address}/${isIPv4(address) ? 32 : 128}@53-53`),
    ...internal.map((network) => `-${network}`),
    ...hostNetworks(networkInterfaces()).map((network) => `-${network}`),
  ];
}

/**
 * What this machine has addresses in, by its interfaces. Whole networks: public addresses too have neighbours who trust each other, and an
 * IPv6 host changes its address in its network all the time.
 */
export function hostNetworks(interfaces: ReturnType<typeof networkInterfaces>): string[] {
  const found = Object.values(interfaces).flatMap((addresses = []) =>
    addresses.flatMap(({ address, cidr, family }) => {
      const isV4 = family === "IPv4";
      const bare = address.replace(/%.*$/, "");
      const prefix = Number(cidr?.split("/")[1]);
      const least = LEAST_PREFIX[isV4 ? "ipv4" : "ipv6"];
      return [`${bare}/${prefix >= least ? prefix : isV4 ? 32 : 128}`];
    }),
  );
  return [...new Set(found)];
}

/** Why this machine's kernel can't hold internal addresses back, tried in a network namespace that is gone afterwards. */
export async function probeGuard(): Promise<{ why: string; fix: string } | undefined> {
  const fix =
    "use a kernel with nf_tables, nft_ct, nft_connlimit and nft_reject_inet: modprobe -a nft_ct nft_connlimit nft_reject_inet";
  try {
    const { code, stderr } = await run(nativeProgram("warren-guest"), ["--check-guard"], {
      timeoutMs: 10_000,
    });
    return code === 0
      ? undefined
      : { why: `the kernel refuses its packet filter: ${lastWords(stderr)}`, fix };
  } catch (error) {
    return {
      why: `the guest can't be run: ${error instanceof Error ? error.message : error}`,
      fix: "make -C native",
    };
  }
}

/** What a runtime's probe says of it. */
export function openFinding({ networkMissing }: Pick<Capabilities, "networkMissing">): ProbeFinding {
  const missing = networkMissing?.open;
  if (!missing) return { level: "ok", message: "open network works, with internal addresses held back" };
  const message = `network open is refused: ${missing.why}`;
  return { level: "warning", message, ...(missing.fix === undefined ? {} : { fix: missing.fix }) };
}

/** With --strict. */
export const hostNetworkIsWeak = {
  why: "it takes the isolation from the host's local services and abstract sockets away, and the engine runs with --strict",
};

/** @throws WarrenError `unsupported` */
export function requireNetwork(
  { network, isolation }: Pick<RuntimeSpec, "network" | "isolation">,
  { networkModes, networkMissing }: Capabilities,
): void {
  const isKept = isolation === "gvisor" && (network === "open" || network === "host");
  if (networkModes.includes(network) && !isKept) return;
  const missing = networkMissing?.[network];
  const why = isKept ? "gVisor can't enforce it" : (missing?.why ?? "this runtime can't enforce it");
  throw new WarrenError("unsupported", `there is no network ${network} here: ${why}`, {
    hint: missing?.fix ?? "use network_mode filtered or none",
  });
}
