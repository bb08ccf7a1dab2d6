import { chmod } from "node:fs/promises";
import { createConnection, createServer, type Socket } from "node:net";

/** What an impostor does with a connection once the first request is there. */
export type Behaviour = (socket: Socket, request: { type: number; payload: Buffer }) => void;

export interface Impostor extends AsyncDisposable {
  readonly path: string;
  behaviour: Behaviour;
  connect(): Promise<Socket>;
  /** Connections that are open now. */
  readonly open: number;
  /** Ends them all. */
  drop(): void;
}

/** A server in place of a guest, on a Unix socket. Nothing of ours is in it but the shape of a frame. */
export async function startImpostor(path: string, behaviour: Behaviour): Promise<Impostor> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket)).on("error", () => {});
    // The host has let go.
    socket.on("end", () => socket.destroy());
    let bytes = Buffer.alloc(0);
    const onData = (chunk: Buffer) => {
      bytes = Buffer.concat([bytes, chunk]);
      if (bytes.length < 5 || bytes.length < 5 + bytes.readUInt32LE(0)) return;
      socket.off("data", onData);
      const payload = bytes.subarray(5, 5 + bytes.readUInt32LE(0));
      impostor.behaviour(socket, { type: bytes[4] ?? 0, payload });
    };
    socket.on("data", onData);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  await chmod(path, 0o600);
  const impostor: Impostor = {
    path,
    behaviour,
    connect: () =>
      new Promise((resolve, reject) => {
        const socket = createConnection(path);
        socket.once("connect", () => resolve(socket)).once("error", reject);
      }),
    get open() {
      return sockets.size;
    },
    drop() {
      for (const socket of sockets) socket.destroy();
    },
    async [Symbol.asyncDispose]() {
      impostor.drop();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
  return impostor;
}

export function frame(type: number, payload: Uint8Array = new Uint8Array(), length = payload.length): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32LE(length);
  head[4] = type;
  return Buffer.concat([head, payload]);
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

export function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return bytes;
}

export function str(text: string | Uint8Array): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([u32(bytes.length), bytes]);
}

/** A stat record of docs/wire/guest.md. */
export function stat(
  record: { mode?: number; size?: bigint; seconds?: bigint; ns?: number; target?: string } = {},
): Buffer {
  const { mode = 0o100644, size = 0n, seconds = 0n, ns = 0, target = "" } = record;
  const seconds64 = u64(BigInt.asUintN(64, seconds));
  return Buffer.concat([u32(mode), u32(0), u32(0), u64(size), seconds64, u32(ns), str(target)]);
}

export const replies = {
  ok: 0x80,
  error: 0x81,
  info: 0x82,
  started: 0x83,
  stdout: 0x84,
  stderr: 0x85,
  exit: 0x86,
  stat: 0x87,
  entry: 0x88,
  data: 0x89,
  end: 0x8a,
  event: 0x8b,
} as const;

export const requests = { spawn: 0x02, read: 0x10, write: 0x11, list: 0x13 } as const;

/** An EXIT with code 0. */
export const exitZero = frame(replies.exit, Buffer.alloc(17));

/** Sends the same bytes as fast as they are taken, until the connection ends. */
export function flood(socket: Socket, bytes: Uint8Array): void {
  const more = () => {
    while (!socket.destroyed && socket.write(bytes));
  };
  socket.on("drain", more);
  more();
}
