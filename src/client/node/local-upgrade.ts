import { connect, type Socket } from "node:net";
import type { WebSocket } from "ws";
import { SUBPROTOCOL } from "../transport.ts";

/** A response's head beyond this is none of ours. */
const MAX_HEAD_BYTES = 16 * 1024;

/** Any 16 bytes: the key keeps caches from answering, and between us and a Unix socket there is none. */
const KEY = "d2FycmVuLWxvY2FsLXdzLg==";

const END_OF_HEAD = "\r\n\r\n";

export interface Upgraded {
  socket: Socket;
  /** What came behind the response's head. */
  head: Buffer;
}

export interface LocalUpgrade {
  socketPath: string;
  /** What is asked for, with its query. */
  path: string;
  headers: Readonly<Record<string, string>>;
  /** How long the answer may take, in milliseconds. */
  timeoutMs: number;
  signal: AbortSignal | undefined;
}

/**
 * Asks a server on a Unix socket for a WebSocket (RFC 6455, 4.1). Node's own HTTP client does the same, but loading it takes about as
 * long as all the rest of a short command. Undefined when the answer is anything but yes: that client can read it. Rejects as
 * `net.connect` does, and with the signal's reason.
 */
export function upgradeLocally(upgrade: LocalUpgrade): Promise<Upgraded | undefined> {
  const { socketPath, path, headers, timeoutMs, signal } = upgrade;
  const socket = connect(socketPath);
  const lines = [
    `GET ${path} HTTP/1.1`,
    "Host: localhost",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    `Sec-WebSocket-Key: ${KEY}`,
    `Sec-WebSocket-Protocol: ${SUBPROTOCOL}`,
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
  ];
  // A line break in any of them would be a request of its own.
  if (lines.some((line) => /[^\t\x20-\x7e]/.test(line))) {
    socket.destroy();
    return Promise.resolve(undefined);
  }
  socket.write(lines.join("\r\n") + END_OF_HEAD);
  return new Promise((resolve, reject) => {
    let got: Buffer = Buffer.alloc(0);
    const timer = setTimeout(() => finish(new Error("the server did not answer in time")), timeoutMs);
    const abort = () => finish(signal?.reason);
    signal?.addEventListener("abort", abort, { once: true });
    const finish = (end: unknown) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      socket.off("data", read).off("error", finish).off("close", closed);
      socket.pause();
      if (isUpgraded(end)) return resolve(end);
      socket.on("error", () => undefined).destroy();
      if (end === undefined) resolve(undefined);
      else reject(end);
    };
    const closed = () => finish(undefined);
    const read = (piece: Buffer) => {
      got = got.length === 0 ? piece : Buffer.concat([got, piece]);
      const at = got.indexOf(END_OF_HEAD);
      if (at >= 0)
        finish(
          isYes(got.toString("latin1", 0, at))
            ? { socket, head: got.subarray(at + END_OF_HEAD.length) }
            : undefined,
        );
      else if (got.length > MAX_HEAD_BYTES) finish(undefined);
    };
    socket.on("data", read).on("error", finish).on("close", closed);
  });
}

/** What `ws` makes for its server's connections, and its types don't tell of. */
type MakeUnopened = new (
  address: null,
  protocols: undefined,
  options: { autoPong: boolean; closeTimeout: number },
) => WebSocket & { _isServer: boolean; setSocket(socket: Socket, head: Buffer, options: object): void };

/** A WebSocket without a connection, for `adopt`. */
export function unopened(make: typeof WebSocket, closeTimeoutMs: number): InstanceType<MakeUnopened> {
  const socket = new (make as unknown as MakeUnopened)(null, undefined, {
    autoPong: true,
    closeTimeout: closeTimeoutMs,
  });
  socket._isServer = false;
  return socket;
}

/** Has a WebSocket go on with a connection, as `ws` does itself once its HTTP is done. It is open then. */
export function adopt(
  webSocket: InstanceType<MakeUnopened>,
  { socket, head }: Upgraded,
  maxPayload: number,
): void {
  webSocket.setSocket(socket, head, {
    allowSynchronousEvents: true,
    maxPayload,
    skipUTF8Validation: false,
    // Masks keep proxies from taking frames for requests. Here there is none, and one of zeros costs nothing.
    generateMask: (mask: Buffer) => mask.fill(0),
  });
  socket.resume();
}

function isUpgraded(end: unknown): end is Upgraded {
  return typeof end === "object" && end !== null && "head" in end;
}

function isYes(head: string): boolean {
  const [status = "", ...fields] = head.toLowerCase().split("\r\n");
  return status.startsWith("http/1.1 101 ") && fields.includes(`sec-websocket-protocol: ${SUBPROTOCOL}`);
}
