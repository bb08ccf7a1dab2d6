import { Resolver } from "node:dns/promises";
import { readFile, stat } from "node:fs/promises";
import { isIP } from "node:net";
import { WarrenError } from "../../contracts/errors.ts";
import { parseHost } from "../../lib/host-name.ts";

/** Addresses of a name, in the order in which they are to be tried. */
export type Resolve = (name: string) => Promise<string[]>;

const TIMEOUT_MS = 5_000;
const TRIES = 2;
/** A name with more addresses than this is tried at the first ones. */
const MOST_ADDRESSES = 16;
/** This host as a sandbox may name it: ours, and those that programs know from Docker and Podman. */
const thisHost: readonly string[] = [
  "host.warren.internal",
  "host.docker.internal",
  "host.containers.internal",
];
/** Larger files are not read: resolvers of C libraries would take seconds for each lookup. */
const MAX_HOSTS_BYTES = 4 * 1024 * 1024;

/**
 * Looks names up as this host does: its hosts file, then its name servers. Not through getaddrinfo(3), which holds one of the
 * few threads of the pool until a slow server has answered. Answers are not kept: a policy judges each address anew.
 */
export function createResolver(hostsFile = "/etc/hosts"): Resolve {
  const resolver = new Resolver({ timeout: TIMEOUT_MS, tries: TRIES });
  const hosts = createHostsFile(hostsFile);
  return async (name) => {
    if (thisHost.includes(name)) return ["127.0.0.1", "::1"];
    const local = (await hosts()).get(name);
    if (local) return local;
    const answers = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)]);
    const addresses = answers.flatMap((answer) => (answer.status === "fulfilled" ? answer.value : []));
    if (addresses.length > 0) return addresses.slice(0, MOST_ADDRESSES);
    const failure = answers.find((answer) => answer.status === "rejected");
    throw new WarrenError("internal", `the name ${name} can't be looked up`, { cause: failure?.reason });
  };
}

function createHostsFile(path: string): () => Promise<Map<string, string[]>> {
  let known = new Map<string, string[]>();
  let version = "";
  return async () => {
    const found = await stat(path).catch(() => undefined);
    const now = found ? `${found.ino} ${found.size} ${found.mtimeMs}` : "";
    if (now === version) return known;
    known = found && found.size <= MAX_HOSTS_BYTES ? parseHosts(await readFile(path, "utf8")) : new Map();
    version = now;
    return known;
  };
}

/** hosts(5) */
function parseHosts(text: string): Map<string, string[]> {
  const known = new Map<string, string[]>();
  for (const line of text.split("\n")) {
    const [address = "", ...names] = line.replace(/#.*/, "").trim().split(/\s+/);
    if (isIP(address) === 0) continue;
    for (const name of names) {
      const host = parseHost(name);
      if (host?.kind === "name") known.set(host.name, [...(known.get(host.name) ?? []), address]);
    }
  }
  return known;
}
