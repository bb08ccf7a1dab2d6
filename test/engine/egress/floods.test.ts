import { once } from "node:events";
import { createServer, request } from "node:http";
import { connect, type Socket } from "node:net";
import { describe, expect, it } from "vitest";
import { eventually, within } from "../../../src/testing/wait.ts";
import { listen, openRig, type Rig, scripted } from "./rig.ts";

const HELLO = /^HTTP\/1\.1 200 .*hi/s;

async function stillServes(rig: Rig): Promise<void> {
  await using server = await scripted();
  const host = `ok.test:${server.port}`;
  expect(await rig.say([`GET http://${host}/ HTTP/1.1\r\nHost: ${host}\r\n\r\n`])).toMatch(HELLO);
}

describe("clients that take their time", () => {
  it.each([
    ["say nothing", ""],
    ["begin a request", "GET http://ok.test/ HTTP/1.1\r\nHost: ok.test\r\nX: "],
    ["begin a second one", "GET /no-url HTTP/1.1\r\nHost: ok.test\r\n\r\nGET "],
    ["begin SOCKS", "\x05\x02\x00"],
  ])("are ended though they %s and more trickles in", async (_what, text) => {
    await using rig = await openRig({
      patience: { firstByteMs: 300, headMs: 300, socksMs: 300, keepAliveMs: 300 },
    });
    const sockets = Array.from({ length: 50 }, () => rig.connect());
    const trickle = setInterval(() => {
      for (const socket of sockets) if (text !== "") socket.write("y");
    }, 50);
    for (const socket of sockets) socket.write(Buffer.from(text, "latin1"));
    const all = Promise.all(
      sockets.map(
        (socket) =>
          new Promise((gone) =>
            socket
              .resume()
              .once("end", () => socket.end())
              .once("close", gone),
          ),
      ),
    );
    await within(10_000, "the end of slow clients", all);
    clearInterval(trickle);
    await stillServes(rig);
  });
});

describe("floods", () => {
  it("of connections that stay are bounded, and room comes back", async () => {
    await using rig = await openRig({ most: 100 });
    const sockets: Socket[] = [];
    let open = 0;
    for (let i = 0; i < 3_000; i++) {
      const socket = connect(rig.port, "127.0.0.1");
      socket.on("error", () => {});
      socket.resume().once("close", () => open--);
      open++;
      sockets.push(socket);
      if (i % 100 === 99) await new Promise(setImmediate);
    }
    await eventually("the end of those beyond the limit", () => open <= 100);
    expect(open).toBe(100);
    for (const socket of sockets) socket.destroy();
    await eventually("room", async () => HELLO.test(await ask(rig)));
  });

  it("of thousands of half-open connections leave nothing behind", { timeout: 60_000 }, async () => {
    await using rig = await openRig();
    const flood = async () => {
      for (let i = 0; i < 40; i++) {
        await Promise.all(
          Array.from({ length: 50 }, async (_, j) => {
            const socket = connect(rig.port, "127.0.0.1");
            socket.on("error", () => {});
            await once(socket, "connect");
            if (j % 2 === 0) socket.write("CONNECT ok.te");
            // Half of them with a FIN, half with a reset.
            if (j % 3 === 0) socket.end();
            else socket.resetAndDestroy();
            await new Promise((gone) => socket.resume().once("close", gone));
          }),
        );
      }
    };
    await flood();
    const before = process.memoryUsage();
    await flood();
    const after = process.memoryUsage();
    expect(after.rss - before.rss).toBeLessThan(64 * 1024 ** 2);
    await stillServes(rig);
  });

  it("of fields are refused, on both sides", async () => {
    await using rig = await openRig();
    const fields = "X-Field: aaaaaaaaaaaaaaaaaaaa\r\n".repeat(5_000);
    expect(await rig.say([`GET http://ok.test/ HTTP/1.1\r\nHost: ok.test\r\n${fields}\r\n`])).toMatch(
      /^HTTP\/1\.1 (400|431) |^$/,
    );
    await using server = await scripted(`HTTP/1.1 200 OK\r\n${fields}\r\n`);
    const host = `ok.test:${server.port}`;
    expect(await rig.say([`GET http://${host}/ HTTP/1.1\r\nHost: ${host}\r\n\r\n`])).toMatch(
      /^HTTP\/1\.1 502 /,
    );
    await stillServes(rig);
  });
});

async function ask(rig: Rig): Promise<string> {
  await using server = await scripted();
  const host = `ok.test:${server.port}`;
  return await rig.say([`GET http://${host}/ HTTP/1.1\r\nHost: ${host}\r\n\r\n`]);
}

it("streams large bodies in bounded memory", { timeout: 60_000 }, async () => {
  const mib = 1024 ** 2;
  const size = 256 * mib + 5;
  await using rig = await openRig();
  let taken = 0;
  const server = createServer((incoming, response) => {
    incoming.on("data", (chunk: Buffer) => {
      taken += chunk.length;
    });
    incoming.once("end", () => response.end());
  });
  const host = `ok.test:${await listen(server)}`;
  const upload = request({
    port: rig.port,
    host: "127.0.0.1",
    method: "PUT",
    path: `http://${host}/`,
    headers: { host, "content-length": size },
  });
  const answered = once(upload, "response");
  const chunk = Buffer.alloc(mib);
  const [early, late] = [new Set<number>(), new Set<number>()];
  for (let sent = 0; sent < size; sent += chunk.length) {
    if (!upload.write(chunk.subarray(0, size - sent))) await once(upload, "drain");
    (sent < 32 * mib ? early : late).add(process.memoryUsage.rss());
  }
  upload.end();
  await answered;
  expect(taken).toBe(size);
  expect(Math.max(...late) - Math.max(...early)).toBeLessThan(128 * mib);
  server.closeAllConnections();
  server.close();
});
