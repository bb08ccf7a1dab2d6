import { EGRESS_PROXY_PORT } from "../contracts/constants.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { NetworkRules } from "../contracts/network.ts";
import type { Capabilities, NetworkMode, NetworkReach } from "../contracts/runtime.ts";
import type { CreateSandboxParsed } from "../contracts/sandbox.ts";
import { compilePolicy } from "./egress/policy.ts";
import { openReach } from "./open-network.ts";

/** den's and mino's words beside ours. */
const modes: Record<string, NetworkMode | undefined> = {
  none: "none",
  internal: "none",
  filtered: "filtered",
  open: "open",
  bridge: "open",
  host: "host",
};

export interface AdmittedNetwork {
  mode: NetworkMode;
  /** Of `filtered` and `open` only. */
  rules?: NetworkRules;
  /** Of `open` only. */
  reach?: NetworkReach;
}

/**
 * What network a request means. Rules or secrets without a mode mean `filtered`.
 * @throws WarrenError `invalid_request`, `unsupported`
 */
export function admitNetwork(
  {
    network_mode: word = "",
    network: rules,
    isolation,
    secrets,
  }: Pick<CreateSandboxParsed, "network_mode" | "network" | "isolation" | "secrets">,
  runtime: { name: string; capabilities: Pick<Capabilities, "networkModes" | "networkMissing"> },
): AdmittedNetwork {
  const { networkModes, networkMissing } = runtime.capabilities;
  const mode =
    word === ""
      ? rules || secrets?.length
        ? "filtered"
        : "none"
      : Object.hasOwn(modes, word)
        ? modes[word]
        : undefined;
  if (mode === undefined || !networkModes.includes(mode)) {
    const missing = mode && networkMissing?.[mode];
    throw new WarrenError(
      "unsupported",
      `network_mode: the runtime ${runtime.name} has no network ${JSON.stringify(word || mode)}${missing ? `: ${missing.why}` : ""}`,
      { hint: missing?.fix ?? `it has: ${networkModes.join(", ")}` },
    );
  }
  if (isolation === "gvisor" && (mode === "open" || mode === "host")) {
    throw new WarrenError(
      "unsupported",
      `network_mode: with isolation gvisor there is no network ${JSON.stringify(word)}: its kernel has no packet filter that could hold internal addresses back`,
      { hint: 'use "network_mode": "filtered", or "isolation": "container"' },
    );
  }
  if (mode !== "filtered") refuseLearning(rules ?? {}, mode);
  if (mode === "open") return { mode, ...(rules ? { rules } : {}), reach: openReach(rules ?? {}) };
  if (mode !== "filtered") {
    if (!rules) return { mode };
    throw new WarrenError(
      "invalid_request",
      `network: there is nothing to filter in the network mode ${mode}`,
      {
        hint: 'use "network_mode": "filtered", or leave it out',
      },
    );
  }
  checkRules(rules ?? {});
  return { mode, rules: rules ?? {} };
}

/** @throws WarrenError `invalid_request` */
export function refuseLearning({ learn }: NetworkRules, mode: NetworkMode): void {
  if (!learn) return;
  throw new WarrenError("invalid_request", `network: nothing is learnt in the network mode ${mode}`, {
    hint: 'use "network_mode": "filtered", or leave it out',
  });
}

/** @throws WarrenError `invalid_request` for a rule that can't be read */
export function checkRules({ allow = [], deny = [] }: NetworkRules): void {
  compilePolicy({ allow, deny });
}

/** Tells programs inside where their way out is. Most know at least one of these, in one of both spellings. */
export function proxyEnvironment(mode: NetworkMode): Record<string, string> {
  if (mode !== "filtered") return {};
  const http = `http://127.0.0.1:${EGRESS_PROXY_PORT}`;
  const variables = {
    http_proxy: http,
    https_proxy: http,
    // With names looked up outside, whether there is a name server inside or not.
    all_proxy: `socks5h://127.0.0.1:${EGRESS_PROXY_PORT}`,
    no_proxy: "localhost,127.0.0.1,::1",
  };
  return Object.fromEntries(
    Object.entries(variables).flatMap(([name, value]) => [
      [name, value],
      [name.toUpperCase(), value],
    ]),
  );
}
