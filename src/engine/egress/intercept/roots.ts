import { statSync } from "node:fs";
import { readFile } from "node:fs/promises";
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
    const system = SYSTEM_BUNDLES.find((path) => statOf(path)?.isFile());
    const files = [...(system ? [system] : []), ...(extraFile === undefined ? [] : [extraFile])];
    const version = files.map(versionOf).join();
    if (known?.version !== version) {
      const texts = await Promise.all(files.map(read));
      // One text for each file: OpenSSL reads all certificates in it.
      const ca = system === undefined ? [...rootCertificates, ...texts] : texts;
      known = { version, context: createSecureContext({ ca, minVersion: "TLSv1.2" }) };
    }
    return known.context;
  };
}

/** At each connection: a trip through the thread pool takes ten times as long as the look itself. */
function statOf(path: string) {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}

function versionOf(path: string): string {
  const found = statOf(path);
  return found ? `${path} ${found.ino} ${found.size} ${found.mtimeMs}` : path;
}

async function read(path: string): Promise<string> {
  return await readFile(path, "utf8").catch((cause: unknown) => {
    throw new WarrenError("internal", `the certificates in ${path} can't be read`, { cause });
  });
}
