import { createHmac, timingSafeEqual } from "node:crypto";

/** Tokens that let their bearer into one port of one sandbox for some time. */
export interface PreviewTokens {
  /** `id` is the whole id: a name may be another sandbox's tomorrow. `expiresAt`: seconds since 1970. */
  sign(id: string, port: number, expiresAt: number): string;
  /** When it expires, if it is ours, for this port and still good. */
  verify(token: string, id: string, port: number): number | undefined;
}

/** Longer ones are nobody's. */
const MAX_TOKEN = 128;

/** `key`: secret, at least 32 bytes, of this engine alone. */
export function createPreviewTokens(key: Buffer, now: () => number = Date.now): PreviewTokens {
  const mac = (id: string, port: number, expiry: string) =>
    createHmac("sha256", key)
      .update(JSON.stringify(["warren-preview-1", id, port, expiry]))
      .digest();
  return {
    sign(id, port, expiresAt) {
      const expiry = expiresAt.toString(36);
      return `${expiry}.${mac(id, port, expiry).toString("base64url")}`;
    },
    verify(token, id, port) {
      const match = token.length <= MAX_TOKEN ? /^([0-9a-z]{1,11})\.([\w-]{43})$/.exec(token) : null;
      const [, expiry = "", digest = ""] = match ?? [];
      if (!match || !timingSafeEqual(Buffer.from(digest, "base64url"), mac(id, port, expiry)))
        return undefined;
      const expiresAt = Number.parseInt(expiry, 36);
      return expiresAt * 1000 > now() ? expiresAt : undefined;
    },
  };
}
