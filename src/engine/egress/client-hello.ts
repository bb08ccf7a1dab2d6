/** What the first bytes of a connection say of the TLS that it begins with. */
export type Hello =
  /** More bytes are needed: so many in all, at least. */
  | { kind: "more"; need: number }
  /** Another protocol. */
  | { kind: "other" }
  /** Begins as TLS, and can't be read without doubt: one server may read it as this, and another as that. */
  | { kind: "broken" }
  /** `serverName` is absent when the client names none, `protocols` when it offers none (RFC 7301). */
  | { kind: "tls"; serverName?: string; protocols?: string[] };

/** RFC 8446, 5.1. */
const HANDSHAKE = 22;
/** Change of ciphers, alert, handshake, data, heartbeat: what else a TLS record can be. Some servers skip warnings before a greeting. */
const recordTypes = [20, 21, HANDSHAKE, 23, 24];
const MAX_RECORD = 16_384;
const RECORD_HEADER = 5;
const MESSAGE_HEADER = 4;
const CLIENT_HELLO = 1;
const SERVER_NAME = 0;
const PROTOCOLS = 16;
/** OpenSSL's CLIENT_HELLO_MAX_LENGTH: what it refuses, few others take. Post-quantum key shares make one of 2 KiB. */
const MAX_HELLO = 131_396;
/** Nobody needs more than some, and each costs time. */
const MAX_RECORDS = 64;

/** Reads a ClientHello, which may come in several records. */
export function readHello(bytes: Buffer): Hello {
  if (bytes.length === 0) return { kind: "more", need: 1 };
  if (!recordTypes.includes(bytes[0] ?? 0)) return { kind: "other" };
  if (bytes.length < 2) return { kind: "more", need: 2 };
  if (bytes[1] !== 3) return { kind: "other" };
  const parts: Buffer[] = [];
  let gathered = 0;
  let size: number | undefined;
  for (let at = 0; parts.length < MAX_RECORDS; ) {
    if (bytes.length < at + RECORD_HEADER) return { kind: "more", need: at + RECORD_HEADER };
    const length = bytes.readUInt16BE(at + 3);
    if (bytes[at] !== HANDSHAKE || bytes[at + 1] !== 3 || length === 0 || length > MAX_RECORD) {
      return { kind: "broken" };
    }
    const end = at + RECORD_HEADER + length;
    const part = bytes.subarray(at + RECORD_HEADER, end);
    parts.push(part);
    gathered += part.length;
    if (size === undefined && gathered >= MESSAGE_HEADER) {
      const header = Buffer.concat(parts).subarray(0, MESSAGE_HEADER);
      if (header[0] !== CLIENT_HELLO) return { kind: "broken" };
      size = header.readUIntBE(1, 3);
      if (size > MAX_HELLO) return { kind: "broken" };
    }
    if (size !== undefined && gathered >= MESSAGE_HEADER + size) {
      return readBody(Buffer.concat(parts).subarray(MESSAGE_HEADER, MESSAGE_HEADER + size));
    }
    if (bytes.length < end) return { kind: "more", need: end };
    at = end;
  }
  return { kind: "broken" };
}

function readBody(body: Buffer): Hello {
  const reader = new Reader(body);
  reader.skip(2 + 32); // version, random
  reader.skip(reader.uint(1)); // session
  reader.skip(reader.uint(2)); // cipher suites
  reader.skip(reader.uint(1)); // compression
  if (reader.failed) return { kind: "broken" };
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
    if (list.uint(1) !== 0) return { kind: "broken" };
    const name = list.take(list.uint(2));
    // Two names, or one more extension of this type, would leave it to the server which one counts.
    const isOdd = data.failed || data.left > 0 || list.failed || list.left > 0;
    if (isOdd || serverName !== undefined || name.length === 0) return { kind: "broken" };
    serverName = name.toString("latin1");
  }
  if (reader.failed || reader.left > 0 || extensions.failed) return { kind: "broken" };
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
