import { WarrenError } from "../../../contracts/errors.ts";

export type ImageReference =
  | { kind: "host" }
  | { kind: "path"; path: string; expect: "any" | "directory" | "tar" }
  | { kind: "registry"; name: string; insecure: boolean }
  | { kind: "layout"; path: string; tag: string };

/** https://github.com/distribution/reference: domain, path components, tag, digest. */
const component = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
const domain = "(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\\[[0-9a-fA-F:]+\\])(?::[0-9]{1,5})?";
const tag = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}";
const referencePattern = new RegExp(
  `^(?:(${domain})/)?(${component}(?:/${component})*)(?::(${tag}))?(?:@(sha256:[0-9a-f]{64}))?$`,
);
/** Longest name that registries take, with tag and digest on top. */
const MAX_REFERENCE = 512;

/**
 * What a user's image reference means. `host`; an absolute path (or `dir:`, `tar:` before it); `oci:<layout>:<tag>`;
 * else a registry reference as Docker reads it, `docker://` before it allowed.
 * @throws WarrenError `image_invalid`
 */
export function parseReference(text: string): ImageReference {
  if (text.includes("\0") || text.length > 4096) throw invalid(text, "it is too long or holds a NUL byte");
  if (text === "host") return { kind: "host" };
  if (text.startsWith("/")) return { kind: "path", path: text, expect: "any" };
  if (text.startsWith("dir:")) return { kind: "path", path: absolute(text, "dir:"), expect: "directory" };
  if (text.startsWith("tar:")) return { kind: "path", path: absolute(text, "tar:"), expect: "tar" };
  if (text.startsWith("oci:")) return parseLayout(text);
  return parseRegistry(text);
}

function absolute(text: string, prefix: string): string {
  const path = text.slice(prefix.length);
  if (!path.startsWith("/")) throw invalid(text, `an absolute path must follow ${prefix}`);
  return path;
}

function parseLayout(text: string): ImageReference {
  const rest = absolute(text, "oci:");
  const match = new RegExp(`^(.+):(${tag})$`, "s").exec(rest);
  // skopeo splits at the first colon.
  if (!match?.[1] || !match[2] || match[1].includes(":")) {
    throw invalid(text, "write oci:/absolute/layout:tag; the path must not hold a colon");
  }
  return { kind: "layout", path: match[1], tag: match[2] };
}

function parseRegistry(text: string): ImageReference {
  const bare = text.startsWith("docker://") ? text.slice("docker://".length) : text;
  const match = bare.length <= MAX_REFERENCE ? referencePattern.exec(bare) : null;
  if (!match?.[2]) throw invalid(text, "use host, an absolute path, or a name such as debian:12");
  let [, host, path, name, digest] = match as unknown as [string, string?, string?, string?, string?];
  // The first part is a host only when it looks like one: Docker reads `library/debian` as a path.
  if (host !== undefined && !/[.:]/.test(host) && host !== "localhost") {
    if (host !== host.toLowerCase()) throw invalid(text, "a repository name is in lower case");
    path = `${host}/${path}`;
    host = undefined;
  }
  host ??= "docker.io";
  if (host === "docker.io" && path && !path.includes("/")) path = `library/${path}`;
  const suffix = digest ? `@${digest}` : `:${name ?? "latest"}`;
  return { kind: "registry", name: `${host}/${path}${suffix}`, insecure: isLoopback(host) };
}

/** A canonical name as people write it: `docker.io/library/debian:12` is `debian:12`. */
export function familiarName(name: string): string {
  return name.replace(/^docker\.io\/(library\/(?=[^/]+$))?/, "");
}

/** Only a registry on this very machine is spoken to without TLS. */
function isLoopback(host: string): boolean {
  const name = host.replace(/:\d+$/, "");
  return name === "localhost" || name === "[::1]" || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(name);
}

function invalid(text: string, why: string): WarrenError {
  return new WarrenError("image_invalid", `${JSON.stringify(text.slice(0, 200))} is not an image: ${why}`);
}
