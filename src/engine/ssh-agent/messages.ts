import { createHash } from "node:crypto";
import { once } from "node:events";
import type { Duplex } from "node:stream";

/** Of the SSH agent protocol (draft-ietf-sshm-ssh-agent). */
export const messageTypes = {
  failure: 5,
  success: 6,
  requestIdentities: 11,
  identitiesAnswer: 12,
  signRequest: 13,
  signResponse: 14,
  extension: 27,
} as const;

/** As OpenSSH's agent and clients have it. */
const MAX_MESSAGE_BYTES = 256 * 1024;
const LENGTH_BYTES = 4;

export const FAILURE = Buffer.from([messageTypes.failure]);

export interface Patience {
  /** Until a message begins, in milliseconds. */
  idleMs: number;
  /** From then on, until all of it has come. */
  messageMs: number;
}

export interface MessageReader {
  /** The next message; undefined when the other side has ended before one. Rejects for what is too long, too slow, or cut off. */
  receive(patience: Patience): Promise<Buffer | undefined>;
}

/** The only reader of a stream. */
export function readMessages(stream: Duplex): MessageReader {
  let wake = () => {};
  // For good: a listener that is added while less has come than is wanted is called at once, again and again.
  for (const event of ["readable", "end", "error", "close"]) stream.on(event, () => wake());

  /** Exactly so many bytes; undefined at the end. */
  const take = async (size: number, timeoutMs: number): Promise<Buffer | undefined> => {
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      wake();
    }, timeoutMs);
    try {
      for (;;) {
        const bytes: Buffer | null = stream.read(size);
        // At the end it gives what is left.
        if (bytes) return bytes.length === size ? bytes : undefined;
        if (stream.readableEnded || stream.destroyed) return undefined;
        if (isLate) throw new Error("a message of the SSH agent took too long");
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    } finally {
      clearTimeout(timer);
    }
  };

  return {
    async receive({ idleMs, messageMs }) {
      const head = await take(LENGTH_BYTES, idleMs);
      if (head === undefined) return undefined;
      const length = head.readUInt32BE(0);
      if (length < 1 || length > MAX_MESSAGE_BYTES)
        throw new Error("a message of the SSH agent has no such length");
      const message = await take(length, messageMs);
      if (message === undefined) throw new Error("a message of the SSH agent was cut off");
      return message;
    },
  };
}

/** Resolves when the other side takes more. */
export async function send(stream: Duplex, message: Uint8Array, timeoutMs: number): Promise<void> {
  const head = Buffer.alloc(LENGTH_BYTES);
  head.writeUInt32BE(message.length, 0);
  stream.write(head);
  if (!stream.write(message)) await once(stream, "drain", { signal: AbortSignal.timeout(timeoutMs) });
}

/** What is left of a message. `bad` once anything did not fit. */
export class Fields {
  bad = false;
  #at: number;
  readonly #bytes: Buffer;

  constructor(bytes: Buffer, at = 0) {
    this.#bytes = bytes;
    this.#at = at;
  }

  u32(): number {
    const bytes = this.#take(4);
    return bytes.length === 4 ? bytes.readUInt32BE(0) : 0;
  }

  u8(): number {
    return this.#take(1)[0] ?? 0;
  }

  string(): Buffer {
    return this.#take(this.u32());
  }

  /** True when all was as it should be, and nothing is left. */
  isWhole(): boolean {
    return !this.bad && this.#at === this.#bytes.length;
  }

  #take(size: number): Buffer {
    if (this.bad || this.#bytes.length - this.#at < size) {
      this.bad = true;
      return Buffer.alloc(0);
    }
    this.#at += size;
    return this.#bytes.subarray(this.#at - size, this.#at);
  }
}

export function encodeString(bytes: Uint8Array): Buffer {
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeUInt32BE(bytes.length, 0);
  return Buffer.concat([length, bytes]);
}

/** Fields of a public key, which a certificate has behind a nonce (OpenSSH's PROTOCOL.certkeys and PROTOCOL.u2f). */
const keyFields: Readonly<Record<string, number>> = {
  "ssh-rsa": 2,
  "ssh-dss": 4,
  "ssh-ed25519": 1,
  "ecdsa-sha2-nistp256": 2,
  "ecdsa-sha2-nistp384": 2,
  "ecdsa-sha2-nistp521": 2,
  "sk-ssh-ed25519@openssh.com": 2,
  "sk-ecdsa-sha2-nistp256@openssh.com": 3,
};
const CERTIFICATE = "-cert-v01@openssh.com";

/** As `ssh-add -l` prints it: a certificate's is that of its key. */
export function fingerprint(blob: Buffer): string {
  return `SHA256:${createHash("sha256").update(plainKey(blob)).digest("base64").replace(/=+$/, "")}`;
}

function plainKey(blob: Buffer): Buffer {
  const fields = new Fields(blob);
  const type = fields.string().toString("latin1");
  if (!type.endsWith(CERTIFICATE)) return blob;
  const bare = type.slice(0, -CERTIFICATE.length);
  const plain = Object.hasOwn(keyFields, bare) ? bare : `${bare}@openssh.com`;
  const count = Object.hasOwn(keyFields, plain) ? (keyFields[plain] as number) : undefined;
  if (count === undefined) return blob;
  fields.string(); // the nonce
  const parts = Array.from({ length: count }, () => encodeString(fields.string()));
  return fields.bad ? blob : Buffer.concat([encodeString(Buffer.from(plain)), ...parts]);
}
