import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { expect, it } from "vitest";
import { WebSocketServer } from "ws";
import { createNodeClient } from "../../src/client/node/index.ts";

/** Takes connections and never says a word. */
async function silentServer() {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    sockets,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

it("gives up on a server that does not answer a stream's handshake when the command's time is long over", async () => {
  await using server = await silentServer();
  const client = createNodeClient({ url: server.url });
  await expect(client.execStream("box", { cmd: ["true"], timeout: 0.1 })).rejects.toMatchObject({
    code: "deadline_exceeded",
  });
});

it("gives up when the caller does, in the handshake and behind it", async () => {
  await using server = await silentServer();
  const call = (url: string, signal: AbortSignal) =>
    createNodeClient({ url }).execStream("box", { cmd: ["true"] }, { signal });
  const stop = new AbortController();
  const opening = call(server.url, stop.signal);
  await expect.poll(() => server.sockets.size).toBe(1);
  stop.abort();
  await expect(opening).rejects.toMatchObject({ code: "cancelled" });

  const sockets = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  await once(sockets, "listening");
  try {
    const stopLater = new AbortController();
    const starting = call(`http://127.0.0.1:${(sockets.address() as AddressInfo).port}`, stopLater.signal);
    const [socket] = (await once(sockets, "connection")) as [import("ws").WebSocket];
    await once(socket, "message");
    const closed = once(socket, "close");
    stopLater.abort();
    await expect(starting).rejects.toMatchObject({ code: "cancelled" });
    await closed;
  } finally {
    sockets.close();
  }
});
