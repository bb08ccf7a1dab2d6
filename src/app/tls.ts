import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { closeSync, fstatSync, openSync, readFileSync, type Stats } from "node:fs";
import { WarrenError } from "../contracts/errors.ts";

/** Where a certificate (with its chain) and its private key are, both as PEM. */
export interface TlsFiles {
  cert: string;
  key: string;
}

/** Both files' text, once it is sure that they belong together and that nobody else can read the key. */
export function readTlsFiles(files: TlsFiles): { cert: string; key: string } {
  const cert = readChecked(files.cert, "certificate");
  const key = readChecked(files.key, "private key", checkPrivate);
  const certificate = parse(files.cert, "certificate", () => new X509Certificate(cert));
  const privateKey = parse(files.key, "private key", () => createPrivateKey(key));
  if (!matches(certificate, privateKey)) {
    throw new WarrenError(
      "invalid_request",
      `the private key ${files.key} is not that of the certificate ${files.cert}`,
      { hint: "the server's own certificate comes first in its file, the chain behind it" },
    );
  }
  return { cert, key };
}

function readChecked(path: string, what: string, check?: (path: string, found: Stats) => void): string {
  let fd: number | undefined;
  try {
    fd = openSync(path, "r");
    check?.(path, fstatSync(fd));
    return readFileSync(fd, "utf8");
  } catch (cause) {
    if (cause instanceof WarrenError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    throw new WarrenError("invalid_request", `the file ${path} with the ${what} can't be read: ${code}`, {
      cause,
    });
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** As PostgreSQL has it: a key of root's may be readable by its group, which is how Debian shares keys with services. */
function checkPrivate(path: string, { mode, uid }: Stats): void {
  const allowed = uid === 0 ? 0o740 : 0o700;
  if ((mode & 0o777 & ~allowed) === 0) return;
  throw new WarrenError("forbidden", `others can read or change the private key ${path}`, {
    hint: `chmod 600 '${path}'`,
  });
}

function parse<T>(path: string, what: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const encrypted =
      code === "ERR_MISSING_PASSPHRASE" || code === "ERR_OSSL_CRYPTO_INTERRUPTED_OR_CANCELLED";
    throw new WarrenError(
      "invalid_request",
      encrypted ? `the ${what} in ${path} is encrypted` : `the file ${path} holds no usable ${what}`,
      {
        cause,
        hint: encrypted
          ? `decrypt it: openssl pkey -in '${path}' -out plain.key`
          : "PEM is expected: text with a line that starts with -----BEGIN",
      },
    );
  }
}

function matches(certificate: X509Certificate, key: KeyObject): boolean {
  try {
    return certificate.checkPrivateKey(key);
  } catch {
    // A key of another kind than the certificate's.
    return false;
  }
}
