import net from "node:net";
import { expect, it } from "vitest";
import { expectFailure } from "../../src/testing/failures.ts";
import { childrenOf, drain, startGuest, until } from "./harness.ts";

/** The guest runs in this test's own network, so the port must be one that nobody has. */
async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as net.AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

it("hands the connections of programs inside to those who wait for them, one each", async () => {
  const port = await freePort();
  await using guest = await startGuest({ args: ["--proxy-port", String(port)] });
  const stop = new AbortController();
  const waiting = [1, 2, 3].map(() => guest.client.accept(stop.signal));
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
  await until(async () => (await childrenOf(guest.pid)).length === 0);
});

it("keeps a client that came before anybody waited", async () => {
  const port = await freePort();
  await using guest = await startGuest({ args: ["--proxy-port", String(port)] });
  const client = net.connect({ port, host: "127.0.0.1" });
  client.write("early");
  await new Promise((resolve) => client.once("connect", resolve));
  const accepted = await guest.client.accept(new AbortController().signal);
  expect((await new Promise<Buffer>((resolve) => accepted.once("data", resolve))).toString()).toBe("early");
  client.destroy();
  accepted.destroy();
});

it("leaves nothing of those who no longer wait", async () => {
  const port = await freePort();
  await using guest = await startGuest({ args: ["--proxy-port", String(port)] });
  const stop = new AbortController();
  const waiting = Array.from({ length: 20 }, () => guest.client.accept(stop.signal).catch(() => {}));
  await until(async () => (await childrenOf(guest.pid)).length === 20);
  stop.abort();
  await Promise.all(waiting);
  await until(async () => (await childrenOf(guest.pid)).length === 0);
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
