import { readFile, stat } from "node:fs/promises";
import { createSecureContext, rootCertificates, type SecureContext } from "node:tls";
import { WarrenError } from "../../../contracts/errors.ts";

/** Where distributions keep the certificates that they trust: the list of Go's crypto/x509. */
export const SYSTEM_BUNDLES = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/ca-bundle.pem",
  "/etc/pki/tls/cacert.pem",
  "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
  "/etc/ssl/cert.pem",
] as const;

/** Whom the engine trusts where it takes a sandbox's place. */
export type Roots = () => Promise<SecureContext>;

/**
 * The certificates that this host trusts (Node's own where it has no list of them) and those of a file. They are read again
 * when a file has changed.
 * @param extraFile PEM, such as of a company's own authority
 */
export function createRoots(extraFile?: string): Roots {
  let known: { version: string; context: SecureContext } | undefined;
  return async () => {
    const system = await firstOf(SYSTEM_BUNDLES);
    const files = [...(system ? [system] : []), ...(extraFile === undefined ? [] : [extraFile])];
    const version = (await Promise.all(files.map(versionOf))).join();
    if (known?.version !== version) {
      const texts = await Promise.all(files.map(read));
      // One text for each file: OpenSSL reads all certificates in it.
      const ca = system === undefined ? [...rootCertificates, ...texts] : texts;
      known = { version, context: createSecureContext({ ca, minVersion: "TLSv1.2" }) };
    }
    return known.context;
  };
}

async function firstOf(paths: readonly string[]): Promise<string | undefined> {
  for (const path of paths) {
    if ((await stat(path).catch(() => undefined))?.isFile()) return path;
  }
  return undefined;
}

async function versionOf(path: string): Promise<string> {
  const found = await stat(path).catch(() => undefined);
  return found ? `${path} ${found.ino} ${found.size} ${found.mtimeMs}` : path;
}

async function read(path: string): Promise<string> {
  return await readFile(path, "utf8").catch((cause: unknown) => {
    throw new WarrenError("internal", `the certificates in ${path} can't be read`, { cause });
  });
}
