import { isIPv4 } from "node:net";
import type { Duplex } from "node:stream";

/** RFC 1928. */
export const SOCKS_VERSION = 5;
const NO_AUTHENTICATION = 0;
const NO_METHOD = 0xff;
const CONNECT = 1;
const addressTypes = { ipv4: 1, name: 3, ipv6: 4 } as const;

/** RFC 1928, 6. */
export const socksReplies = {
  ok: 0,
  failed: 1,
  denied: 2,
  unreachable: 4,
  unknownCommand: 7,
  unknownAddressType: 8,
} as const;

/** How long a client may take for its two messages. */
const GREETING_TIMEOUT_MS = 10_000;
/** The longest that this protocol has: a request with a name of 255 bytes. */
const MOST_BYTES = 4 + 1 + 255 + 2;

export interface SocksRequest {
  host: string;
  port: number;
}

/** Where a client wants to go; undefined when it was refused, in the protocol's words, and its connection ends. */
export async function readSocksRequest(
  client: Duplex,
  timeoutMs = GREETING_TIMEOUT_MS,
): Promise<SocksRequest | undefined> {
  const input = createInput(client, timeoutMs);
  try {
    const [, methodCount = 0] = await input.take(2);
    const methods = await input.take(methodCount);
    if (!methods.includes(NO_AUTHENTICATION)) {
      client.end(Buffer.from([SOCKS_VERSION, NO_METHOD]));
      return undefined;
    }
    client.write(Buffer.from([SOCKS_VERSION, NO_AUTHENTICATION]));
    const [version, command, , type] = await input.take(4);
    if (version !== SOCKS_VERSION) {
      client.destroy();
      return undefined;
    }
    const host = await readAddress(input, type);
    const port = (await input.take(2)).readUInt16BE(0);
    if (command !== CONNECT || host === undefined) {
      const reply = command === CONNECT ? socksReplies.unknownAddressType : socksReplies.unknownCommand;
      client.end(socksReply(reply));
      return undefined;
    }
    input.release();
    return { host, port };
  } catch {
    client.destroy();
    return undefined;
  }
}

/** The bound address of a reply means nothing to a client: zeros, as many proxies say. */
export function socksReply(code: number): Buffer {
  return Buffer.from([SOCKS_VERSION, code, 0, addressTypes.ipv4, 0, 0, 0, 0, 0, 0]);
}

async function readAddress(input: Input, type: number | undefined): Promise<string | undefined> {
  switch (type) {
    case addressTypes.ipv4: {
      const text = [...(await input.take(4))].join(".");
      return isIPv4(text) ? text : undefined;
    }
    case addressTypes.ipv6: {
      const bytes = await input.take(16);
      const words = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(2 * i).toString(16));
      return `[${words.join(":")}]`;
    }
    case addressTypes.name: {
      const [length = 0] = await input.take(1);
      return (await input.take(length)).toString("latin1");
    }
    default:
      return undefined;
  }
}

interface Input {
  /** Rejects when the client ends, or takes too long for all of it. */
  take(size: number): Promise<Buffer>;
  /** Puts back what came beyond. */
  release(): void;
}

function createInput(client: Duplex, timeoutMs: number): Input {
  let seen = Buffer.alloc(0);
  let wake: (() => void) | undefined;
  let over: Error | undefined;
  const end = (why: string) => () => {
    over ??= new Error(why);
    wake?.();
  };
  const onReadable = () => wake?.();
  const ended = end("the client has ended");
  const timer = setTimeout(end("the client is too slow"), timeoutMs);
  client.on("readable", onReadable);
  for (const event of ["end", "error", "close"] as const) client.once(event, ended);
  return {
    async take(size) {
      for (;;) {
        if (seen.length >= size) {
          const taken = seen.subarray(0, size);
          seen = seen.subarray(size);
          return taken;
        }
        if (over) throw over;
        const chunk: Buffer | null = client.read();
        if (chunk) {
          seen = Buffer.concat([seen, chunk]);
          continue;
        }
        if (seen.length > MOST_BYTES) throw new Error("the client says too much");
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    },
    release() {
      clearTimeout(timer);
      client.removeListener("readable", onReadable);
      for (const event of ["end", "error", "close"] as const) client.removeListener(event, ended);
      if (seen.length > 0 && !client.destroyed) client.unshift(seen);
    },
  };
}
