import { BlockList, isIPv4 } from "node:net";
import { WarrenError } from "../../contracts/errors.ts";
import { type Host, parseHost } from "../../lib/host-name.ts";
import { type PresetName, type Presets, presetNames } from "../../lib/presets/presets.ts";
import { carriedIPv4, familyOf } from "./addresses.ts";

/** One line of a policy: whom it is about, and which ports. */
export interface Rule {
  /** As its author wrote it. */
  text: string;
  target:
    | { kind: "any" }
    | { kind: "name"; name: string }
    /** All names below it, not itself. */
    | { kind: "below"; name: string }
    | { kind: "network"; list: BlockList; family: "ipv4" | "ipv6"; cidr: string };
  /** Both ends are in it. */
  ports: { from: number; to: number };
  /** The name's addresses may be internal ones. */
  internal: boolean;
  /** That it stands in, such as `preset:dev`. */
  preset?: string;
}

const allPorts = { from: 1, to: 65_535 };
const INTERNAL = "internal:";
const PRESET = "preset:";

/**
 * One rule, or all that `preset:name` stands for now.
 * @throws WarrenError `invalid_request`
 */
export function expandRule(text: string, presets: Presets): Rule[] {
  const preset = text.trim();
  if (!preset.startsWith(PRESET)) return [parseRule(text)];
  const name = preset.slice(PRESET.length);
  if (!isPreset(name)) throw invalid(text, `the presets are ${presetNames.join(" and ")}`);
  return presets(name).map(({ rule }) => ({ ...parseRule(rule), preset }));
}

function isPreset(name: string): name is PresetName {
  return (presetNames as readonly string[]).includes(name);
}

/**
 * `host`, `*.host`, an address, a network such as `10.0.0.0/8`, or `*`, each with `:port` or `:from-to` after it where not all
 * ports are meant; IPv6 with a port in brackets. `internal:` before a name: it may lead to internal addresses.
 * @throws WarrenError `invalid_request`
 */
export function parseRule(text: string): Rule {
  const trimmed = text.trim();
  const internal = trimmed.startsWith(INTERNAL);
  const { target, port } = split(internal ? trimmed.slice(INTERNAL.length) : trimmed, text);
  const rule = { text: trimmed, target: parseTarget(target, text), ports: parsePorts(port, text), internal };
  if (internal && rule.target.kind !== "name") {
    throw invalid(
      text,
      "`internal:` goes before one host name; internal addresses and networks are named as they are",
    );
  }
  return rule;
}

export function matchesPort({ ports }: Rule, port: number): boolean {
  return port >= ports.from && port <= ports.to;
}

/** Whether the rule is about this host, whatever its addresses are. */
export function matchesHost({ target }: Rule, host: Host): boolean {
  if (target.kind === "any") return true;
  if (host.kind === "address") return target.kind === "network" && inNetwork(target, host.address);
  if (target.kind === "name") return host.name === target.name;
  return target.kind === "below" && host.name.endsWith(`.${target.name}`);
}

/** Whether the rule names networks, and this address is in one: an IPv4 address that an IPv6 one carries counts too. */
export function matchesAddress({ target }: Rule, address: string): boolean {
  return target.kind === "network" && inNetwork(target, address);
}

function inNetwork(target: { list: BlockList; family: "ipv4" | "ipv6" }, address: string): boolean {
  const carried = carriedIPv4(address);
  if (carried !== undefined && inNetwork(target, carried)) return true;
  const family = familyOf(address);
  return family === target.family && target.list.check(address, family);
}

function split(text: string, whole: string): { target: string; port: string | undefined } {
  const bracketed = /^(\[[^\]]*\])(?::(.*))?$/.exec(text);
  if (bracketed) return { target: bracketed[1] ?? "", port: bracketed[2] };
  if (text.includes("://")) throw invalid(whole, "it is a URL, and rules are about hosts");
  const parts = text.split(":");
  // More than one colon without brackets is an IPv6 address or network, all of it.
  if (parts.length > 2) return { target: text, port: undefined };
  const [target = "", port] = parts;
  if (target === "") throw invalid(whole, "it names no host");
  return { target, port };
}

function parseTarget(text: string, whole: string): Rule["target"] {
  if (text === "*") return { kind: "any" };
  if (text.startsWith("*.")) {
    const host = parseHost(text.slice(2));
    if (host?.kind !== "name") throw invalid(whole, "after `*.` comes a host name");
    return { kind: "below", name: host.name };
  }
  if (text.includes("*")) throw invalid(whole, "`*` stands alone, or before a dot at the beginning");
  const slash = text.indexOf("/");
  if (slash >= 0) return network(text.slice(0, slash), text.slice(slash + 1), whole);
  const host = parseHost(text);
  if (!host) throw invalid(whole, "it is neither a host name nor an address");
  if (host.kind === "name") return host;
  return network(host.address, isIPv4(host.address) ? "32" : "128", whole);
}

function network(text: string, prefixText: string, whole: string): Rule["target"] {
  const host = parseHost(text.replace(/^\[(.*)\]$/, "$1"));
  if (host?.kind !== "address") throw invalid(whole, "before the slash comes an address");
  const family = familyOf(host.address);
  const prefix = /^\d{1,3}$/.test(prefixText) ? Number(prefixText) : Number.NaN;
  if (!(prefix <= (family === "ipv4" ? 32 : 128)))
    throw invalid(whole, "after the slash come the bits of a network");
  const list = new BlockList();
  list.addSubnet(host.address, prefix, family);
  return { kind: "network", list, family, cidr: `${host.address}/${prefix}` };
}

function parsePorts(text: string | undefined, whole: string): Rule["ports"] {
  if (text === undefined) return allPorts;
  const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text);
  const from = Number(match?.[1]);
  const to = Number(match?.[2] ?? match?.[1]);
  if (!match || from < 1 || to > 65_535 || from > to)
    throw invalid(whole, "a port is 1 to 65535, or a range of such");
  return { from, to };
}

function invalid(text: string, why: string): WarrenError {
  return new WarrenError(
    "invalid_request",
    `${JSON.stringify(text.slice(0, 300))} is no network rule: ${why}`,
    {
      hint: "such as example.com:443, *.example.com, 10.0.0.0/8 or [fd00::1]:22",
    },
  );
}
