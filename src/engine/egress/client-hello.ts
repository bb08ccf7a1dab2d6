/** What the first bytes of a connection say of the TLS that it begins with. */
export type Hello =
  /** More bytes are needed. */
  | { kind: "more" }
  | { kind: "other" }
  /** `serverName` is absent when the client names none, `protocols` when it offers none (RFC 7301). */
  | { kind: "tls"; serverName?: string; protocols?: string[] };

/** RFC 8446, 5.1. */
const HANDSHAKE = 22;
const MAX_RECORD = 16_384;
const RECORD_HEADER = 5;
const CLIENT_HELLO = 1;
const SERVER_NAME = 0;
const PROTOCOLS = 16;
/** Larger ones exist on paper only; post-quantum key shares make one of 2 KiB. */
export const MAX_HELLO = 65_536;

/** Reads a ClientHello, which may come in several records. What breaks the format is `other`, so that nobody parses it twice. */
export function readHello(bytes: Buffer): Hello {
  if (bytes.length === 0) return { kind: "more" };
  if (bytes[0] !== HANDSHAKE) return { kind: "other" };
  const parts: Buffer[] = [];
  let gathered = 0;
  for (let at = 0; ; ) {
    if (bytes.length < at + RECORD_HEADER) return { kind: "more" };
    const length = bytes.readUInt16BE(at + 3);
    if (bytes[at] !== HANDSHAKE || bytes[at + 1] !== 3 || length === 0 || length > MAX_RECORD) {
      return { kind: "other" };
    }
    const part = bytes.subarray(at + RECORD_HEADER, at + RECORD_HEADER + length);
    parts.push(part);
    gathered += part.length;
    if (gathered >= 4) {
      const message = Buffer.concat(parts);
      if (message[0] !== CLIENT_HELLO) return { kind: "other" };
      const size = message.readUIntBE(1, 3);
      if (size > MAX_HELLO) return { kind: "other" };
      if (message.length >= 4 + size) return readBody(message.subarray(4, 4 + size));
    }
    if (part.length < length) return { kind: "more" };
    at += RECORD_HEADER + length;
  }
}

function readBody(body: Buffer): Hello {
  const reader = new Reader(body);
  reader.skip(2 + 32); // version, random
  reader.skip(reader.uint(1)); // session
  reader.skip(reader.uint(2)); // cipher suites
  reader.skip(reader.uint(1)); // compression
  if (reader.failed) return { kind: "other" };
  if (reader.left === 0) return { kind: "tls" };
  const extensions = new Reader(reader.take(reader.uint(2)));
  let serverName: string | undefined;
  let protocols: string[] | undefined;
  while (extensions.left > 0 && !extensions.failed) {
    const type = extensions.uint(2);
    const data = new Reader(extensions.take(extensions.uint(2)));
    if (type === PROTOCOLS) protocols = readProtocols(new Reader(data.take(data.uint(2))));
    if (type !== SERVER_NAME) continue;
    const list = new Reader(data.take(data.uint(2)));
    if (list.uint(1) !== 0) return { kind: "other" };
    const name = list.take(list.uint(2));
    // Two names, or one more extension of this type, would leave it to the server which one counts.
    if (list.failed || list.left > 0 || serverName !== undefined || name.length === 0)
      return { kind: "other" };
    serverName = name.toString("latin1");
  }
  if (reader.failed || extensions.failed) return { kind: "other" };
  return {
    kind: "tls",
    ...(serverName === undefined ? {} : { serverName }),
    ...(protocols === undefined ? {} : { protocols }),
  };
}

function readProtocols(list: Reader): string[] {
  const protocols: string[] = [];
  while (list.left > 0 && !list.failed) protocols.push(list.take(list.uint(1)).toString("latin1"));
  return protocols;
}

class Reader {
  readonly #bytes: Buffer;
  #at = 0;
  failed = false;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  uint(size: 1 | 2): number {
    const bytes = this.take(size);
    return bytes.length === size ? bytes.readUIntBE(0, size) : 0;
  }

  take(size: number): Buffer {
    if (size > this.left) {
      this.failed = true;
      return Buffer.alloc(0);
    }
    this.#at += size;
    return this.#bytes.subarray(this.#at - size, this.#at);
  }

  skip(size: number): void {
    this.take(size);
  }
}
