import { createSocket, type RemoteInfo } from "node:dgram";
import { once } from "node:events";
import { afterAll, beforeAll, expect, it, onTestFinished } from "vitest";
import { quietPort } from "../../src/testing/ports.ts";
import { childrenOf, frame, startGuest, type TestGuest, until } from "./harness.ts";

let guest: TestGuest;
beforeAll(async () => {
  guest = await startGuest();
});
afterAll(() => guest[Symbol.asyncDispose]());

/** A server that answers each datagram with `got` and what it got; the guest runs in this test's own network. */
async function server(address: string, port = 0) {
  const socket = createSocket(address.includes(":") ? "udp6" : "udp4");
  const clients: RemoteInfo[] = [];
  socket.on("message", (bytes, client) => {
    clients.push(client);
    socket.send(Buffer.concat([Buffer.from("got "), bytes]), client.port, client.address);
  });
  socket.bind(port, address);
  await once(socket, "listening");
  // What hundreds send at once is kept until we have time for it.
  socket.setRecvBufferSize(1 << 20);
  const close = () => new Promise<void>((resolve) => socket.close(resolve));
  return { port: socket.address().port, clients, socket, close };
}

async function openPort(port: number) {
  const heard: [number, string][] = [];
  const losses: unknown[] = [];
  const opened = await guest.client.datagrams(port, {
    datagram: (flow, bytes) => void heard.push([flow, bytes.toString("latin1")]),
    closed: (error) => void losses.push(error),
  });
  onTestFinished(() => opened.close());
  return { ...opened, heard, losses };
}

it("gives each flow a socket of its own, and ends with the connection", async () => {
  const { port, clients, close } = await server("127.0.0.1");
  // What came before is gone.
  await expect.poll(() => childrenOf(guest.pid)).toEqual([]);
  const opened = await openPort(port);
  expect(await childrenOf(guest.pid)).toHaveLength(1);
  opened.send(1, Buffer.from("a"));
  opened.send(4_294_967_295, Buffer.from("b"));
  opened.send(1, Buffer.alloc(65_507 - 4));
  opened.send(1, Buffer.alloc(0));
  await until(() => opened.heard.length === 4 || undefined);
  expect(opened.heard.filter(([flow]) => flow === 1).map(([, text]) => text.length)).toEqual([5, 65_507, 4]);
  expect(opened.heard.find(([flow]) => flow === 4_294_967_295)).toEqual([4_294_967_295, "got b"]);
  expect(new Set(clients.map((client) => client.port)).size).toBe(2);
  expect(clients.every(({ address }) => address === "127.0.0.1")).toBe(true);
  // A flow of the same number is a new client.
  opened.endFlow(1);
  opened.endFlow(77);
  opened.send(1, Buffer.from("c"));
  await until(() => opened.heard.length === 5 || undefined);
  expect(new Set(clients.map((client) => client.port)).size).toBe(3);
  opened.close();
  await until(async () => (await childrenOf(guest.pid)).length === 0 || undefined);
  await close();
});

it("reaches a server on ::1, and one that comes back", async () => {
  // A port that nobody takes on 127.0.0.1 meanwhile.
  const first = await server("::1", await quietPort());
  const opened = await openPort(first.port);
  // As clients of UDP do: on a busy machine the first refusal comes late, and what was refused is lost.
  const untilAnswered = (text: string) =>
    until(() => {
      opened.send(1, Buffer.from(text));
      return opened.heard.some(([, heard]) => heard === `got ${text}`) || undefined;
    });
  await untilAnswered("six");
  await first.close();
  // Lost, or for the second, whichever comes first.
  opened.send(1, Buffer.from("between"));
  const second = await server("127.0.0.1", first.port);
  await untilAnswered("four");
  await second.close();
});

it("keeps 256 flows and no more, and loses what a host does not take, not its own memory", async () => {
  const { port, clients, close } = await server("127.0.0.1");
  const opened = await openPort(port);
  for (let flow = 0; flow < 300; flow++) opened.send(flow, Buffer.from("x"));
  await until(() => opened.heard.length >= 256 || undefined);
  opened.endFlow(0);
  opened.send(299, Buffer.from("now"));
  await until(() => opened.heard.some(([flow]) => flow === 299) || undefined);
  expect(opened.heard.filter(([, text]) => text === "got x")).toHaveLength(256);
  expect(new Set(clients.map((client) => client.port)).size).toBe(257);

  const raw = await guest.connect();
  raw.write(frame(0x23, Buffer.from([port & 255, port >> 8])));
  await once(raw, "readable");
  raw.pause();
  const datagram = Buffer.concat([Buffer.from([1, 0, 0, 0]), Buffer.alloc(60_000)]);
  for (let i = 0; i < 500; i++) raw.write(frame(0x45, datagram));
  // All of it is taken though we read no answer.
  await until(() => raw.writableLength === 0 || undefined);
  raw.destroy();
  await close();
});

it("ends at what is no frame of its own", async () => {
  const { port, close } = await server("127.0.0.1");
  const request = frame(0x23, Buffer.from([port & 255, port >> 8]));
  for (const bad of [
    frame(0x45, Buffer.alloc(3)),
    frame(0x45, Buffer.alloc(65_512)),
    frame(0x41, Buffer.alloc(4)),
    Buffer.from([255, 255, 255, 255, 0x45]),
  ]) {
    const raw = await guest.connect();
    raw.on("error", () => {});
    raw.resume();
    raw.write(Buffer.concat([request, bad]));
    await new Promise((resolve) => raw.once("end", resolve).once("close", resolve));
    raw.destroy();
  }
  for (const wrong of [Buffer.alloc(2), Buffer.alloc(1), Buffer.alloc(3, 1)]) {
    const raw = await guest.connect();
    raw.write(frame(0x23, wrong));
    const [answer] = await once(raw, "data");
    expect(answer[4]).toBe(0x81);
    raw.destroy();
  }
  await expect(guest.client.datagrams(0, { datagram() {}, closed() {} })).rejects.toMatchObject({
    code: "invalid_request",
  });
  await close();
});
