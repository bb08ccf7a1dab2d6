import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { createEgress, type Egress, type EgressOptions } from "../../../src/engine/egress/egress.ts";
import type { EgressEvent } from "../../../src/engine/egress/upstream.ts";

/** A way out on a port of its own, with servers that write down what they are sent. */
export interface Rig extends AsyncDisposable {
  egress: Egress;
  events: EgressEvent[];
  port: number;
  /** Sends all of it in these pieces, closes its half unless told otherwise, and gives what came back. */
  say(
    pieces: readonly (string | Buffer)[],
    options?: { keepOpen?: boolean; timeoutMs?: number },
  ): Promise<string>;
  connect(): Socket;
}

export async function openRig(options: Partial<EgressOptions> = {}): Promise<Rig> {
  const events: EgressEvent[] = [];
  const egress = createEgress({
    rules: { allow: ["internal:ok.test"], deny: [] },
    resolve: async () => ["127.0.0.1"],
    onDecision: (event) => events.push(event),
    ...options,
  });
  const proxy = createServer({ allowHalfOpen: true, noDelay: true }, (client) => egress.serve(client));
  const port = await listen(proxy);
  const clients = new Set<Socket>();
  const open = () => {
    const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true, noDelay: true });
    socket.on("error", () => {});
    clients.add(socket);
    socket.once("close", () => clients.delete(socket));
    return socket;
  };
  return {
    egress,
    events,
    port,
    connect: open,
    async say(pieces, { keepOpen = false, timeoutMs = 5_000 } = {}) {
      const socket = open();
      const chunks: Buffer[] = [];
      socket.on("data", (chunk: Buffer) => chunks.push(chunk));
      const closed = once(socket, "close");
      const timer = setTimeout(() => socket.destroy(), timeoutMs);
      for (const piece of pieces) {
        socket.write(typeof piece === "string" ? Buffer.from(piece, "latin1") : piece);
        await new Promise(setImmediate);
      }
      if (!keepOpen) socket.end();
      socket.once("end", () => socket.end());
      await closed;
      clearTimeout(timer);
      return Buffer.concat(chunks).toString("latin1");
    },
    async [Symbol.asyncDispose]() {
      for (const client of clients) client.destroy();
      egress.close();
      proxy.close();
    },
  };
}

export async function listen(server: Server): Promise<number> {
  server.listen({ port: 0, host: "127.0.0.1", backlog: 4096 });
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

/** A server that answers every connection's first bytes with these, and keeps what it is sent. */
export async function scripted(
  answer: string | Buffer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
): Promise<AsyncDisposable & { port: number; heard: Buffer[]; text(): string }> {
  const heard: Buffer[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.once("data", () =>
      socket.end(typeof answer === "string" ? Buffer.from(answer, "latin1") : answer),
    );
    socket.on("data", (chunk: Buffer) => heard.push(chunk));
  });
  const port = await listen(server);
  return {
    port,
    heard,
    text: () => Buffer.concat(heard).toString("latin1"),
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
