import { randomBytes, webcrypto } from "node:crypto";
import type { Host } from "../../../lib/host-name.ts";

const DAY_MS = 86_400_000;
/**
 * All certificates begin so long before they are made: clocks inside may be a day behind, as those of virtual machines that
 * slept are.
 */
const BACKDATED_MS = 2 * DAY_MS;
const AUTHORITY_MS = 3650 * DAY_MS;
/** So long a server's certificate is valid. A clock a day ahead has to find one that is in use valid too. */
const LEAF_MS = 5 * DAY_MS;
/** One that has less left than this is not used any more. */
const LEAF_LEFT_MS = 3 * DAY_MS;
/** Hosts whose certificates are kept. */
const MOST_LEAVES = 256;

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;

/** A private key and a certificate of it, PEM. */
export interface Identity {
  key: string;
  cert: string;
}

/** Makes certificates for the hosts whose TLS ends at the engine. */
export interface Authority {
  /** Its own certificate, PEM. */
  readonly cert: string;
  /** When it ends, in milliseconds since 1970. */
  readonly until: number;
  /** What the engine is to a client that asks for this host. */
  identityOf(host: Host): Promise<Identity>;
}

/** The library registers its parts through metadata, and is loaded by the first sandbox that has a secret. */
async function load() {
  await import("reflect-metadata");
  return await import("@peculiar/x509");
}

/** A new authority that says whose it is. */
export async function createAuthority(now: number, label: string): Promise<Identity> {
  const x509 = await load();
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const cert = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: [{ CN: [`Warren ${label}`] }, { O: ["Warren"] }],
    notBefore: new Date(now - BACKDATED_MS),
    notAfter: new Date(now + AUTHORITY_MS),
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  const pkcs8 = await webcrypto.subtle.exportKey("pkcs8", keys.privateKey);
  return { key: pem("PRIVATE KEY", pkcs8), cert: `${cert.toString("pem")}\n` };
}

/** @param now milliseconds since 1970 */
export async function openAuthority({ key, cert }: Identity, now: () => number): Promise<Authority> {
  const x509 = await load();
  const issuer = new x509.X509Certificate(cert);
  const der = Buffer.from(key.replace(/-----[^-]+-----|\s/g, ""), "base64");
  const signingKey = await webcrypto.subtle.importKey("pkcs8", der, algorithm, false, ["sign"]);
  const leaves = new Map<string, { identity: Promise<Identity>; until: number }>();

  const issue = async (host: Host): Promise<Identity> => {
    const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
    const leaf = await x509.X509CertificateGenerator.create({
      serialNumber: serialNumber(),
      // Names may be longer than this field; the one that counts is in the extension.
      subject: [{ CN: [textOf(host).slice(0, 64)] }],
      issuer: issuer.subjectName,
      notBefore: new Date(now() - BACKDATED_MS),
      notAfter: new Date(now() + LEAF_MS),
      signingAlgorithm: algorithm,
      publicKey: keys.publicKey,
      signingKey,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
        new x509.SubjectAlternativeNameExtension([
          host.kind === "name" ? { type: "dns", value: host.name } : { type: "ip", value: host.address },
        ]),
        await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    });
    return {
      key: pem("PRIVATE KEY", await webcrypto.subtle.exportKey("pkcs8", keys.privateKey)),
      cert: leaf.toString("pem"),
    };
  };

  return {
    cert,
    until: issuer.notAfter.getTime(),
    identityOf(host) {
      const name = textOf(host);
      const known = leaves.get(name);
      // The clock may have been set back as well.
      const left = known ? known.until - now() : 0;
      if (known && left > LEAF_LEFT_MS && left <= LEAF_MS) {
        // The oldest goes first: used last is youngest.
        leaves.delete(name);
        leaves.set(name, known);
        return known.identity;
      }
      const identity = issue(host);
      leaves.delete(name);
      leaves.set(name, { identity, until: now() + LEAF_MS });
      identity.catch(() => leaves.delete(name));
      for (const [oldest] of leaves) {
        if (leaves.size <= MOST_LEAVES) break;
        leaves.delete(oldest);
      }
      return identity;
    },
  };
}

function textOf(host: Host): string {
  return host.kind === "name" ? host.name : host.address;
}

/** Positive, and of more bits than can be guessed (CA/Browser Forum, 7.1: at least 64). */
function serialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] as number) & 0x7f) | 0x40;
  return bytes.toString("hex");
}

function pem(label: string, der: ArrayBuffer): string {
  const lines =
    Buffer.from(der)
      .toString("base64")
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join("\n")}\n-----END ${label}-----\n`;
}
