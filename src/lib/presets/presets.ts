import { closeSync, constants, fstatSync, openSync, readdirSync, readSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { parseHost } from "../host-name.ts";
import { codeHosts } from "./code-hosts.ts";
import type { ReadConfig } from "./config-text.ts";
import { type PackageManager, type Places, packageManagers } from "./package-managers.ts";

export const presetNames = ["dev", "registries"] as const;
export type PresetName = (typeof presetNames)[number];

/** One rule that a preset stands for. */
export interface PresetRule {
  rule: string;
  /** Whose it is, and which file or variable says so. */
  from: string;
}

/** What the presets of rules stand for now. */
export type Presets = (name: PresetName) => PresetRule[];

/** Larger ones are no configuration. */
const MAX_FILE_BYTES = 256 * 1024;
/** Files of one directory, such as apt's. */
const MAX_FILES = 64;
/** URLs of one file or variable. */
const MAX_URLS = 64;

/** Where no machine is looked at: what does not depend on one. */
export const documentedPresets: Presets = (name) => preset(name, () => []);

/** Presets as the package managers of this machine are configured. Files are read anew each time; nothing is run. */
export function createPresets(places: Places): Presets {
  return (wanted) =>
    preset(wanted, (manager) => {
      const found = [
        ...manager.files(places).flatMap((path) => filesAt(path).map((file) => fromFile(file, manager.read))),
        ...Object.entries(manager.variables ?? {}).map(([name, read]) => ({
          ...read(places.variable(name) ?? ""),
          from: name,
        })),
      ];
      const rules = (sources: typeof found, isOwn: boolean) =>
        sources.flatMap(({ urls, from }) =>
          urls.slice(0, MAX_URLS).flatMap((url) => {
            const rule = ruleOf(url, isOwn);
            return rule === undefined ? [] : [{ rule, from: `${manager.name}, ${from}` }];
          }),
        );
      const configured = rules(found, true);
      const { shipped } = manager;
      if (!shipped || found.some(({ replaces }) => replaces)) return configured;
      return [
        ...configured,
        ...rules(
          shipped.files(places).map((file) => fromFile(file, shipped.read)),
          false,
        ),
      ];
    });
}

/**
 * Rules for the registries that a project's own files name. A project may be a stranger's, and a sandbox may write to it: whoever
 * asks for these trusts it, and they lead to no internal address.
 */
export function projectRules(dir: string): PresetRule[] {
  return unique(
    packageManagers.flatMap((manager) =>
      manager.project.flatMap((path) =>
        fromFile(join(dir, path), manager.read)
          .urls.slice(0, MAX_URLS)
          .flatMap((url) => {
            const rule = ruleOf(url, false);
            return rule === undefined ? [] : [{ rule, from: `${manager.name}, ${path}` }];
          }),
      ),
    ),
  );
}

function preset(name: PresetName, of: (manager: PackageManager) => PresetRule[]): PresetRule[] {
  const registries = packageManagers.flatMap(of);
  const hosts = name === "dev" ? codeHosts.map((rule) => ({ rule, from: "code hosts" })) : [];
  return unique([...registries, ...hosts]);
}

function unique(rules: readonly PresetRule[]): PresetRule[] {
  return [...new Map(rules.toReversed().map((one) => [one.rule, one])).values()].toReversed();
}

const ports: Record<string, number | undefined> = { "http:": 80, "https:": 443 };

/** The rule for a URL's host and port, and no more of it: there may be a password in it. Undefined for what is no HTTP URL. */
function ruleOf(text: string, isOwn: boolean): string | undefined {
  let url: URL;
  try {
    url = new URL(text.replace(/^mirror\+/, ""));
  } catch {
    return undefined;
  }
  const port = url.port === "" ? ports[url.protocol] : Number(url.port);
  const host = parseHost(url.hostname);
  if (!host || port === undefined || ports[url.protocol] === undefined) return undefined;
  if (host.kind === "address") {
    if (!isOwn) return undefined;
    return host.address.includes(":") ? `[${host.address}]:${port}` : `${host.address}:${port}`;
  }
  const rule = `${host.name}:${port}`;
  // The owner of this machine has named it, so that it may be a mirror in a private network.
  return isOwn ? `internal:${rule}` : rule;
}

function filesAt(path: string): string[] {
  if (basename(path) !== "*") return [path];
  try {
    const names = readdirSync(dirname(path)).filter((name) => /\.(list|sources)$/.test(name));
    return names
      .sort()
      .slice(0, MAX_FILES)
      .map((name) => join(dirname(path), name));
  } catch {
    return [];
  }
}

function fromFile(path: string, read: ReadConfig) {
  return { ...read(readLimited(path)), from: path };
}

/** Empty for what is no file, can't be read, or is too large. */
function readLimited(path: string): string {
  let file: number;
  try {
    // Not waiting for whoever writes to a FIFO.
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return "";
  }
  try {
    const stat = fstatSync(file);
    if (!stat.isFile() || stat.size > MAX_FILE_BYTES) return "";
    const bytes = Buffer.alloc(stat.size);
    return bytes.toString("utf8", 0, readSync(file, bytes, 0, stat.size, 0));
  } catch {
    return "";
  } finally {
    closeSync(file);
  }
}
