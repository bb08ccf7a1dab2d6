import { isIP, isIPv6 } from "node:net";
import { domainToASCII } from "node:url";

/** RFC 1035, 2.3.4. */
const MAX_NAME = 253;
const MAX_LABEL = 63;
/** Underscores are no host name's, but names with them are used (RFC 8552). */
const label = /^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?$/;

/** A destination as all ways of writing it come to the same. */
export type Host = { kind: "name"; name: string } | { kind: "address"; address: string };

/**
 * What a client's host means: names in lower case, punycode, without the root's dot; addresses in their canonical form, from
 * shorthands too (`127.1`, `0x7f000001`, `2130706433`), which resolvers of C libraries take. Undefined for what is neither.
 */
export function parseHost(text: string): Host | undefined {
  if (text === "" || text.length > 1024) return undefined;
  const bracketed = /^\[(.+)\]$/.exec(text)?.[1];
  if (bracketed !== undefined || isIPv6(text)) return parseIPv6(bracketed ?? text);
  if (/[^\p{L}\p{M}\p{N}._-]/u.test(text)) return undefined;
  const ascii = domainToASCII(text.replace(/\.$/, "")).toLowerCase();
  if (ascii === "" || ascii.length > MAX_NAME) return undefined;
  // The URL standard reads a host whose last label is a number as an IPv4 address, as inet_aton(3) does.
  if (isIP(ascii) === 4) return { kind: "address", address: ascii };
  const labels = ascii.split(".");
  if (/^(\d+|0x[0-9a-f]*)$/.test(labels.at(-1) ?? "")) return parseShorthand(ascii);
  if (!labels.every((part) => part.length <= MAX_LABEL && label.test(part))) return undefined;
  return { kind: "name", name: ascii };
}

function parseShorthand(text: string): Host | undefined {
  const hostname = canonical(text);
  return hostname !== undefined && isIP(hostname) === 4 ? { kind: "address", address: hostname } : undefined;
}

function parseIPv6(text: string): Host | undefined {
  // A zone names an interface of this host.
  if (text.includes("%") || !isIPv6(text)) return undefined;
  const hostname = canonical(`[${text}]`);
  return hostname === undefined ? undefined : { kind: "address", address: hostname.slice(1, -1) };
}

function canonical(host: string): string | undefined {
  try {
    return new URL(`http://${host}/`).hostname;
  } catch {
    return undefined;
  }
}
