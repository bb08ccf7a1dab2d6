import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { rootCertificates } from "node:tls";
import type { RuntimeSpec } from "../../contracts/runtime.ts";
import type { GuestClient } from "../../guest/types.ts";
import { isWithin } from "../../lib/files.ts";
import { SYSTEM_BUNDLES } from "../egress/intercept/roots.ts";

/** Ours inside. Below /run, which can be written with a read-only root too. */
const DIR = "/run/warren";
/** The engine's authority alone, for programs that add it to their own list. */
export const AUTHORITY_FILE = `${DIR}/ca.pem`;
/** The image's list and the engine's authority, for programs that have one list. */
const BUNDLE_FILE = `${DIR}/ca-bundle.pem`;
/** Larger ones are no list of certificates: distributions have 250 KiB. */
const MAX_BUNDLE_BYTES = 4 * 1024 * 1024;

/** Tells programs inside whom to trust. Each of these is what some widespread program or library reads. */
export function trustEnvironment(): Record<string, string> {
  const adding = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];
  const replacing = [
    ...["SSL_CERT_FILE", "NIX_SSL_CERT_FILE"], // OpenSSL, Go, Ruby, rustls; Nix
    ...["REQUESTS_CA_BUNDLE", "PIP_CERT"], // Python
    ...["CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO", "AWS_CA_BUNDLE"],
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
  ];
  return Object.fromEntries([
    ...adding.map((name) => [name, AUTHORITY_FILE]),
    ...replacing.map((name) => [name, BUNDLE_FILE]),
  ]);
}

/**
 * Has a sandbox trust the engine's authority: in files of ours, and in the image's own list where that can be written. All of
 * it happens inside, by the guest.
 * @param authority PEM
 */
export async function installTrust(guest: GuestClient, spec: RuntimeSpec, authority: string): Promise<void> {
  const found = await findBundle(guest);
  const system = found?.text ?? `${rootCertificates.join("\n")}\n`;
  const hasIt = system.includes(authority.trim());
  const all = hasIt ? system : `${system.replace(/\n*$/, "\n")}${authority}`;
  await guest.writeFile(BUNDLE_FILE, Buffer.from(all), { mode: 0o644, parents: true });
  // What is mounted is not the sandbox's alone.
  const isOwn =
    found && !spec.readonlyRoot && !spec.mounts.some(({ target }) => isWithin(found.path, target));
  if (isOwn && !hasIt) await guest.writeFile(found.path, Buffer.from(all)).catch(() => {});
  // The last: the main command waits for it.
  await guest.writeFile(AUTHORITY_FILE, Buffer.from(authority), { mode: 0o644, parents: true });
}

async function findBundle(guest: GuestClient): Promise<{ path: string; text: string } | undefined> {
  for (const path of SYSTEM_BUNDLES) {
    const info = await guest.stat(path).catch(() => undefined);
    if (info?.type !== "file" || info.size > MAX_BUNDLE_BYTES) continue;
    const { body } = await guest.readFile(path, { length: MAX_BUNDLE_BYTES });
    return { path, text: (await buffer(Readable.from(body))).toString("latin1") };
  }
  return undefined;
}
