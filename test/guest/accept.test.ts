import { readdir } from "node:fs/promises";
import net from "node:net";
import { describe, expect, it } from "vitest";
import { createGuestClient } from "../../src/guest/client.ts";
import { encodeFrame } from "../../src/guest/encoder.ts";
import { replies } from "../../src/guest/frames.ts";
import { expectFailure } from "../../src/testing/failures.ts";
import { childrenOf, drain, frame, startGuest, until } from "./harness.ts";

/** The guest runs in this test's own network, so the port must be one that nobody has. */
async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as net.AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

const descriptorsOf = async (pid: number): Promise<number> => (await readdir(`/proc/${pid}/fd`)).length;

/** Two ends of one connection. */
async function socketPair(): Promise<[net.Socket, net.Socket]> {
  const server = net.createServer({ allowHalfOpen: true }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const far = new Promise<net.Socket>((resolve) => server.once("connection", resolve));
  const near = net.connect({ port: (server.address() as net.AddressInfo).port, host: "127.0.0.1" });
  const pair: [net.Socket, net.Socket] = [near, await far];
  server.close();
  return pair;
}

it("hands the connections of programs inside to those who wait for them, one each", async () => {
  const port = await freePort();
  await using guest = await startGuest({ args: ["--proxy-port", String(port)] });
  const stop = new AbortController();
  const waiting = [1, 2, 3].map(async () => (await guest.client.accept(stop.signal)).socket);
  const clients = [1, 2].map((i) => {
    const client = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    client.end(`client ${i}`);
    return client;
  });
  const first = await Promise.race(waiting);
  const second = await Promise.race(
    waiting.map(async (one) => ((await one) === first ? new Promise<never>(() => {}) : one)),
  );
  const said: string[] = [];
  for (const accepted of [first, second]) {
    let text = "";
    accepted.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    await new Promise((resolve) => accepted.once("end", resolve));
    said.push(text);
    accepted.end(`to ${text}`);
  }
  expect(said.sort()).toEqual(["client 1", "client 2"]);
  const answers = await Promise.all(clients.map(async (client) => (await drain(client)).toString()));
  expect(answers).toEqual(["to client 1", "to client 2"]);
  stop.abort();
  const outcomes = await Promise.allSettled(waiting);
  expect(outcomes.filter(({ status }) => status === "rejected")).toHaveLength(1);
  expect(await childrenOf(guest.pid)).toHaveLength(1);
});

it("keeps a client that came before anybody waited", async () => {
  const port = await freePort();
  await using guest = await startGuest({ args: ["--proxy-port", String(port)] });
  const client = net.connect({ port, host: "127.0.0.1" });
  client.write("early");
  await new Promise((resolve) => client.once("connect", resolve));
  const { socket: accepted, target } = await guest.client.accept(new AbortController().signal);
  expect(target).toBeUndefined();
  expect((await new Promise<Buffer>((resolve) => accepted.once("data", resolve))).toString()).toBe("early");
  client.destroy();
  accepted.destroy();
});

it("leaves nothing of those who no longer wait", async () => {
  const port = await freePort();
  await using guest = await startGuest({ args: ["--proxy-port", String(port)] });
  const stop = new AbortController();
  const [relay = 0] = await until(async () => (await childrenOf(guest.pid)).slice(0, 1));
  const before = await descriptorsOf(relay);
  const waiting = Array.from({ length: 20 }, () => guest.client.accept(stop.signal).catch(() => {}));
  await until(async () => (await descriptorsOf(relay)) === before + 20);
  stop.abort();
  await Promise.all(waiting);
  await until(async () => (await descriptorsOf(relay)) === before);
  expect(await childrenOf(guest.pid)).toEqual([relay]);
});

it("has a relay again after a payload has killed it", async () => {
  const port = await freePort();
  await using guest = await startGuest({ args: ["--proxy-port", String(port)] });
  const [relay = 0] = await until(async () => (await childrenOf(guest.pid)).slice(0, 1));
  const waiting = guest.client.accept(new AbortController().signal);
  const lost = expectFailure(waiting, "guest_failed");
  await until(async () => (await descriptorsOf(relay)) > 4);
  process.kill(relay, "SIGKILL");
  await lost;
  const accepted = guest.client.accept(new AbortController().signal);
  const client = net.connect({ port, host: "127.0.0.1" });
  client.write("again");
  const { socket } = await accepted;
  expect((await new Promise<Buffer>((resolve) => socket.once("data", resolve))).toString()).toBe("again");
  client.destroy();
  socket.destroy();
  expect(await childrenOf(guest.pid)).not.toContain(relay);
});

describe("what a guest says of a connection", () => {
  const accepting = async (payload: Buffer) => {
    const [near, far] = await socketPair();
    far.once("data", () =>
      far.write(Buffer.concat([frame(replies.ok, payload), Buffer.from("first bytes")])),
    );
    try {
      const { socket, target } = await createGuestClient(async () => near).accept(
        new AbortController().signal,
      );
      return { target, first: String(await new Promise((resolve) => socket.once("data", resolve))) };
    } finally {
      near.destroy();
      far.destroy();
    }
  };
  const captured = (host: string, port: number) =>
    Buffer.concat([Buffer.from([1]), encodeFrame(replies.ok).str(host).u16(port).finish().subarray(5)]);

  it("is where it was to lead", async () => {
    expect(await accepting(Buffer.from([0]))).toEqual({ first: "first bytes" });
    const target = { host: "example.com", port: 443 };
    expect(await accepting(captured("example.com", 443))).toEqual({ target, first: "first bytes" });
  });

  it.each([
    ["nothing", Buffer.alloc(0)],
    ["a kind that there is not", Buffer.from([2])],
    ["more than there is to say", Buffer.from([0, 0])],
    ["no port", captured("example.com", 0)],
    ["half a name", captured("example.com", 443).subarray(0, 7)],
    ["a name beyond all names", captured("a".repeat(256), 443)],
  ])("is refused when it is %s", async (_what, payload) => {
    await expectFailure(accepting(payload), "guest_failed");
  });
});

it("says that there is no such port", async () => {
  await using guest = await startGuest();
  await expectFailure(
    guest.client.accept(new AbortController().signal),
    "unsupported",
    "guest_failed",
    "invalid_request",
  );
});
