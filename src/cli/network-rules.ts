import { projectRegistries } from "../app/project-registries.ts";
import type { NetworkRules } from "../contracts/network.ts";
import { UsageError } from "./report.ts";

export interface NetworkOptions {
  network?: string;
  networkAllow?: string[];
  networkDeny?: string[];
  networkPreset?: string[];
  networkLearn?: boolean;
}

/** Presets that the engine knows, and `project`, which is read here. */
const presets = ["dev", "registries", "project"];

/** The rules of these options; undefined when there are none of them. */
export function networkRules(options: Omit<NetworkOptions, "network">): NetworkRules | undefined {
  const { networkAllow, networkDeny, networkPreset, networkLearn } = options;
  if (!networkAllow && !networkDeny && !networkPreset && !networkLearn) return undefined;
  const allow = [...split(networkPreset).flatMap(presetRules), ...split(networkAllow)];
  const deny = split(networkDeny);
  return {
    ...(allow.length > 0 ? { allow } : {}),
    ...(deny.length > 0 ? { deny } : {}),
    ...(networkLearn ? { learn: true } : {}),
  };
}

/** No rule has a comma in it, so a list of rules may. */
function split(texts: readonly string[] | undefined): string[] {
  return (texts ?? [])
    .flatMap((text) => text.split(","))
    .map((text) => text.trim())
    .filter((text) => text !== "");
}

function presetRules(name: string): string[] {
  if (!presets.includes(name)) {
    throw new UsageError(`there is no preset ${JSON.stringify(name)}`, `choose of: ${presets.join(", ")}`);
  }
  if (name !== "project") return [`preset:${name}`];
  const rules = projectRegistries(process.cwd()).map(({ rule }) => rule);
  if (rules.length > 0) return rules;
  throw new UsageError(
    "no file of a package manager in this directory names a registry",
    "without one, the preset registries has what there is to reach",
  );
}
