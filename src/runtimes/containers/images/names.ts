import { WarrenError } from "../../../contracts/errors.ts";
import { parseReference } from "../../common/images/reference.ts";
import { isSnapshotName } from "../snapshots/names.ts";

const DOCKER_HUB = "docker.io/";
const OFFICIAL = "docker.io/library/";
/** Podman's own: what it built or imported under a name without a registry. */
const LOCAL = "localhost/";

/** An image in a registry, or one that could be. */
export interface RegistryName {
  /** Complete, such as `docker.io/library/debian:12`. */
  name: string;
  /** Its registry is on this machine, and needs no TLS. */
  insecure: boolean;
  /** What else Podman may have it as. */
  local?: string;
}

/** @throws WarrenError `image_invalid`, `unsupported` for what isn't in registries */
export function registryName(reference: string): RegistryName {
  const wanted = parseReference(reference);
  if (wanted.kind !== "registry") {
    throw new WarrenError("unsupported", `${JSON.stringify(reference)} is not the name of an image`, {
      hint: "use a name such as debian:12",
    });
  }
  const { name, insecure } = wanted;
  const bare = reference.replace(/^docker:\/\//, "");
  if (!name.startsWith(DOCKER_HUB) || bare.startsWith(DOCKER_HUB)) return { name, insecure };
  const official = name.startsWith(OFFICIAL) && !bare.startsWith("library/");
  return { name, insecure, local: `${LOCAL}${name.slice((official ? OFFICIAL : DOCKER_HUB).length)}` };
}

/** Podman's name of what it has built or imported itself: no registry has it. */
export function isLocalName(name: string): boolean {
  return name.startsWith(LOCAL);
}

/** The name that a new image gets. @throws WarrenError `image_invalid` */
export function newName(tag: string): string {
  const { name } = registryName(tag);
  if (isSnapshotName(name)) {
    throw new WarrenError("image_invalid", `${JSON.stringify(tag)} is a snapshot's name`, {
      hint: "choose another name",
    });
  }
  if (!name.includes("@")) return name;
  throw new WarrenError("image_invalid", `${JSON.stringify(tag)} can't be the name of a new image`, {
    hint: "a digest is what an image is, not what it is called",
  });
}

/** Repository, and tag or digest. */
export function splitName(name: string): [repository: string, version: string] {
  const at = name.includes("@") ? name.indexOf("@") : name.lastIndexOf(":");
  return [name.slice(0, at), name.slice(at + 1)];
}

/** An engine's own word for an image, complete: Docker leaves out what belongs to Docker Hub. */
export function completeName(name: string): string {
  const [first = "", ...rest] = name.split("/");
  if (rest.length === 0) return `${OFFICIAL}${name}`;
  return isHost(first) ? name : `${DOCKER_HUB}${name}`;
}

/** As people write it: `debian:12` for `docker.io/library/debian:12`. */
export function familiarName(name: string): string {
  const official = name.startsWith(OFFICIAL) ? name.slice(OFFICIAL.length) : undefined;
  if (official !== undefined && !official.includes("/")) return official;
  const rest = name.startsWith(DOCKER_HUB) ? name.slice(DOCKER_HUB.length) : name;
  // `docker.io/a.b/c` without its registry would be `c` of the registry `a.b`.
  return isHost(rest.split("/")[0] ?? "") ? name : rest;
}

/**
 * What an image is called by whoever looks for names that begin so; undefined: it is not meant. `all` are the complete names that
 * there are: `localhost/a` is called `a` only where that is no other image.
 */
export function nameBeginning(prefix: string, name: string, all: ReadonlySet<string>): string | undefined {
  const forms = [familiarName(name), name];
  if (name.startsWith(LOCAL)) {
    const short = name.slice(LOCAL.length);
    if (!all.has(completeName(short))) forms.push(short);
  }
  return forms.find((form) => form.startsWith(prefix));
}

function isHost(part: string): boolean {
  return /[.:]/.test(part) || part === "localhost";
}
