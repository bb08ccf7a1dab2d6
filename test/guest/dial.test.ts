import { spawn } from "node:child_process";
import { once } from "node:events";
import net, { type AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, it } from "vitest";
import { expectFailure } from "../../src/testing/failures.ts";
import { quietPort } from "../../src/testing/ports.ts";
import { bytesOf, childrenOf, drain, startGuest, type TestGuest, until } from "./harness.ts";

let guest: TestGuest;
beforeAll(async () => {
  guest = await startGuest();
});
afterAll(() => guest[Symbol.asyncDispose]());

/** The guest runs in this test's own network. */
async function listen(
  onConnection: (socket: net.Socket) => void,
  host = "127.0.0.1",
): Promise<AsyncDisposable & { port: number }> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    onConnection(socket);
  });
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, host, resolve));
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

it("carries bytes both ways, each direction to its own end", async () => {
  await using server = await listen((socket) => {
    void drain(socket).then((request) => socket.end(`got ${request.length}`));
  });
  const socket = await guest.client.dial(server.port);
  const reply = drain(socket);
  socket.end(Buffer.alloc(3_000_000));
  expect((await reply).toString()).toBe("got 3000000");
  socket.destroy();
});

it("lets the far side end first", async () => {
  let received: Promise<Buffer> | undefined;
  await using server = await listen((socket) => {
    received = drain(socket);
    socket.end("hello");
  });
  const socket = await guest.client.dial(server.port);
  expect((await drain(socket)).toString()).toBe("hello");
  socket.end("after the end");
  await until(() => received);
  expect((await received)?.toString()).toBe("after the end");
});

it("can be used by listening for data, by piping, and by iterating", async () => {
  await using server = await listen((socket) => socket.end("x".repeat(100_000)));
  const counted = await guest.client.dial(server.port);
  let bytes = 0;
  counted.on("data", (part: Buffer) => {
    bytes += part.length;
  });
  await new Promise((resolve) => counted.once("end", resolve));
  expect(bytes).toBe(100_000);
  counted.destroy();
  const iterated = await guest.client.dial(server.port);
  expect((await bytesOf(iterated)).length).toBe(100_000);
});

it("reaches ::1 when only that is listened on, and other addresses by name", async () => {
  await using server = await listen((socket) => socket.end("six"), "::1");
  for (const host of [undefined, "localhost", "::1"]) {
    const socket = await guest.client.dial(server.port, host === undefined ? {} : { host });
    expect((await drain(socket)).toString()).toBe("six");
    socket.destroy();
  }
});

it("fails where nothing listens, and for what is no address", async () => {
  await expect(guest.client.dial(await quietPort())).rejects.toMatchObject({
    code: "port_unreachable",
    hint: expect.any(String),
  });
  await expect(guest.client.dial(80, { host: "example.com" })).rejects.toMatchObject({
    code: "invalid_request",
  });
  for (const bad of [0, 65_536, 1.5, Number.NaN]) {
    await expect(guest.client.dial(bad)).rejects.toMatchObject({ code: "invalid_request" });
  }
});

it("ends a connection when the host goes, even while the far side is silent", async () => {
  const accepted: net.Socket[] = [];
  await using server = await listen((socket) => accepted.push(socket));
  const socket = await guest.client.dial(server.port);
  await until(() => accepted.length === 1);
  const gone = drain(accepted[0] as net.Socket);
  socket.destroy();
  await gone;
  await expect.poll(() => childrenOf(guest.pid)).toHaveLength(1);
});

it("gives up in time where nobody answers, and others don't wait for that", async () => {
  // A queue for one, which is full then: the kernel leaves all others without an answer.
  const deaf = spawn(
    "/usr/bin/perl",
    [
      "-MIO::Socket::INET",
      "-e",
      `$| = 1; my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 1) or die; my @kept;
       for (1 .. 4) { push @kept, IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $s->sockport, Timeout => 0.1) }
       print $s->sockport, "\n"; sleep 60`,
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  try {
    const port = Number(String((await once(deaf.stdout, "data"))[0]));
    await using server = await listen((socket) => socket.end("here"));
    const silent = expectFailure(guest.client.dial(port, { timeoutMs: 500 }), "deadline_exceeded");
    const socket = await guest.client.dial(server.port);
    expect((await drain(socket)).toString()).toBe("here");
    socket.destroy();
    await silent;
  } finally {
    deaf.kill("SIGKILL");
  }
});

it("passes a reset on", async () => {
  await using server = await listen((socket) => socket.resetAndDestroy());
  const socket = await guest.client.dial(server.port);
  socket.on("error", () => {});
  await drain(socket);
  socket.destroy();
});
