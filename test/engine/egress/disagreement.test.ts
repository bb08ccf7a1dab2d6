import { once } from "node:events";
import { createServer as createHttpsServer } from "node:https";
import { connect, createServer, type Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createAuthority } from "../../server/certificates.ts";
import { listen, openRig, type Rig, scripted } from "./rig.ts";

let rig: Rig;
let secure: ReturnType<typeof createHttpsServer>;
let securePort: number;

beforeAll(async () => {
  rig = await openRig();
  using authority = createAuthority();
  secure = createHttpsServer(authority.issue("any", "DNS:*.test"), (_request, response) =>
    response.end("hi"),
  );
  secure.on("tlsClientError", () => {});
  securePort = await listen(secure);
});
afterAll(async () => {
  await rig[Symbol.asyncDispose]();
  secure.closeAllConnections();
  secure.close();
});

/** The first message of OpenSSL's client, without its record header. */
async function greeting(servername?: string): Promise<Buffer> {
  const server = createServer();
  const port = await listen(server);
  const client = connectTls({ port, host: "127.0.0.1", ...(servername ? { servername } : {}) });
  client.on("error", () => {});
  const [socket] = (await once(server, "connection")) as [Socket];
  const [bytes] = (await once(socket, "data")) as [Buffer];
  socket.destroy();
  client.destroy();
  server.close();
  return bytes.subarray(5);
}

function records(message: Buffer, size: number): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < message.length; at += size) {
    const part = message.subarray(at, at + size);
    parts.push(Buffer.from([22, 3, 1, part.length >> 8, part.length & 255]), part);
  }
  return Buffer.concat(parts);
}

/** A message with one more extension behind the others, whose content is its own. */
function extended(message: Buffer, type: number, data: Buffer): Buffer {
  const copy = Buffer.concat([
    message,
    Buffer.from([type >> 8, type & 255, data.length >> 8, data.length & 255]),
    data,
  ]);
  let at = 4 + 2 + 32;
  at += 1 + (copy[at] ?? 0);
  at += 2 + copy.readUInt16BE(at);
  at += 1 + (copy[at] ?? 0);
  copy.writeUInt16BE(copy.readUInt16BE(at) + 4 + data.length, at);
  copy.writeUIntBE(copy.length - 4, 1, 3);
  return copy;
}

function serverNames(...names: string[]): Buffer {
  const entries = names.map((name) =>
    Buffer.concat([Buffer.from([0, name.length >> 8, name.length & 255]), Buffer.from(name)]),
  );
  const list = Buffer.concat(entries);
  return Buffer.concat([Buffer.from([list.length >> 8, list.length & 255]), list]);
}

/** The type of the first record that a server answers these bytes with: 22 when it takes them for a greeting. */
function answerTo(bytes: Buffer, socket: Socket): Promise<number | undefined> {
  return new Promise((resolve) => {
    socket.on("error", () => {});
    socket.once("data", (chunk: Buffer) => resolve(chunk[0]));
    socket.once("close", () => resolve(undefined));
    socket.write(bytes);
    setTimeout(() => resolve(undefined), 2_000).unref();
  });
}

async function tunnel(port: number): Promise<Socket> {
  const socket = rig.connect();
  socket.write(`CONNECT ok.test:${port} HTTP/1.1\r\nHost: ok.test:${port}\r\n\r\n`);
  const [head] = (await once(socket, "data")) as [Buffer];
  expect(head.toString()).toMatch(/^HTTP\/1\.1 200/);
  return socket;
}

/** Sent away with a reset is closed too. */
function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => void socket.resume().once("close", () => resolve()));
}

const HANDSHAKE = 22;

describe("a TLS greeting in a tunnel", () => {
  it.each<[string, boolean, () => Promise<Buffer>]>([
    ["for the host itself", true, async () => records(await greeting("ok.test"), 16_384)],
    ["for it in other letters", true, async () => records(await greeting("OK.test"), 16_384)],
    ["for it in pieces", true, async () => records(await greeting("ok.test"), 50)],
    ["without a name", true, async () => records(await greeting(), 16_384)],
    ["for another", false, async () => records(await greeting("evil.test"), 16_384)],
    ["for one below", false, async () => records(await greeting("x.ok.test"), 16_384)],
    ["for another in pieces", false, async () => records(await greeting("evil.test"), 50)],
    ["for another in very many pieces", false, async () => records(await greeting("evil.test"), 3)],
    [
      "for another, and very large",
      false,
      async () => records(extended(await greeting("evil.test"), 21, Buffer.alloc(65_000)), 16_384),
    ],
  ])("%s: goes on %s", async (_what, passes, make) => {
    const bytes = await make();
    // OpenSSL takes every one of these, when nobody stands between.
    const direct = connect(securePort, "127.0.0.1");
    expect(await answerTo(bytes, direct)).toBe(HANDSHAKE);
    direct.destroy();
    const socket = await tunnel(securePort);
    expect(await answerTo(bytes, socket)).toBe(passes ? HANDSHAKE : undefined);
    if (!passes) expect(rig.events.at(-1)).toMatchObject({ allowed: false, cause: "mismatch" });
    socket.destroy();
  });

  it.each<[string, (message: Buffer) => Buffer]>([
    [
      "with two extensions of names",
      (message) => records(extended(message, 0, serverNames("evil.test")), 16_384),
    ],
    [
      "with two names in one",
      () =>
        Buffer.concat([
          records(
            extended(
              Buffer.from([1, 0, 0, 44, 3, 3, ...Buffer.alloc(32), 0, 0, 2, 19, 1, 1, 0, 0, 0]),
              0,
              serverNames("ok.test", "evil.test"),
            ),
            16_384,
          ),
        ]),
    ],
    [
      "behind a warning",
      (message) => Buffer.concat([Buffer.from([21, 3, 1, 0, 2, 1, 90]), records(message, 16_384)]),
    ],
    [
      "with an empty record before it",
      (message) => Buffer.concat([Buffer.from([22, 3, 1, 0, 0]), records(message, 16_384)]),
    ],
    [
      "behind other data",
      (message) => Buffer.concat([Buffer.from([23, 3, 3, 0, 1, 0]), records(message, 16_384)]),
    ],
    [
      "that lies about its length",
      (message) => records(Buffer.concat([message.subarray(0, -1)]), 16_384).fill(0, 6, 7),
    ],
  ])("%s ends there", async (_what, change) => {
    await using server = await scripted("heard");
    const socket = await tunnel(server.port);
    socket.end(change(await greeting("ok.test")));
    await closed(socket);
    expect(server.text()).toBe("");
  });

  it("costs little, however it is cut", async () => {
    // 131 072 bytes in records of one byte: each look at all of it would take its square.
    const body = Buffer.alloc(120_000);
    const message = Buffer.concat([
      Buffer.from([1, body.length >> 16, (body.length >> 8) & 255, body.length & 255]),
      body,
    ]);
    const bytes = records(message, 1);
    const socket = await tunnel(securePort);
    const before = process.cpuUsage();
    socket.end(bytes);
    await closed(socket);
    const { user, system } = process.cpuUsage(before);
    expect((user + system) / 1e6).toBeLessThan(2);
  });
});

describe("a request in a tunnel to another port than 80", () => {
  const evil = "Host: evil.test\r\n\r\n";
  it.each([
    ["as it is usual", `GET / HTTP/1.1\r\n${evil}`],
    ["of a method in small letters", `get / HTTP/1.1\r\n${evil}`],
    ["of a method of its own", `X-my.method / HTTP/1.1\r\n${evil}`],
    ["behind empty lines", `\r\n\n\r\nGET / HTTP/1.1\r\n${evil}`],
    ["behind blanks", `  \tGET / HTTP/1.1\r\n${evil}`],
    ["with tabs", `GET\t/\tHTTP/1.1\r\n${evil}`],
    ["without a version", `GET /\r\n${evil}`],
    ["of a long line", `GET /${"a".repeat(20_000)} HTTP/1.1\r\n${evil}`],
    ["of a line without end", `GET /${"a".repeat(70_000)}`],
    ["whole, to another host", `GET http://evil.test/ HTTP/1.1\r\n${evil}`],
    ["that asks for a tunnel", `CONNECT evil.test:443 HTTP/1.1\r\n${evil}`],
    ["in HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
    [
      "that becomes HTTP/2",
      "GET / HTTP/1.1\r\nHost: ok.test:PORT\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    ],
    ["with two hosts", "GET / HTTP/1.1\r\nHost: ok.test:PORT\r\nHost: evil.test\r\n\r\n"],
    ["with two hosts in one", "GET / HTTP/1.1\r\nHost: ok.test:PORT, evil.test\r\n\r\n"],
    ["with a blank in a name", "GET / HTTP/1.1\r\nHost : evil.test\r\n\r\n"],
    ["with a folded field", "GET / HTTP/1.1\r\nHost: ok.test:PORT\r\n evil.test\r\n\r\n"],
    ["for another port", "GET / HTTP/1.1\r\nHost: ok.test:1\r\n\r\n"],
    ["for somebody at the host", "GET / HTTP/1.1\r\nHost: evil.test@ok.test:PORT\r\n\r\n"],
  ])("%s reaches nobody", async (_what, text) => {
    await using server = await scripted();
    const socket = await tunnel(server.port);
    socket.end(text.replaceAll("PORT", String(server.port)));
    await closed(socket);
    expect(server.text()).toBe("");
  });

  it.each([
    ["HTTP for the host", "GET / HTTP/1.1\r\nHost: ok.test:PORT\r\nConnection: close\r\n\r\n"],
    ["HTTP for it, with its dot", "GET / HTTP/1.1\r\nHost: OK.test.:PORT\r\nConnection: close\r\n\r\n"],
    ["SMTP", "EHLO me.test\r\n"],
    ["SSH", "SSH-2.0-x\r\n"],
    ["git", "003egit-upload-pack /x.git\0host=evil.test\0"],
    ["Redis", "*1\r\n$4\r\nPING\r\n"],
    ["bytes", "\x00\x01\x02\x03"],
    ["a word, and no more", "PING"],
  ])("%s goes on", async (_what, text) => {
    await using server = await scripted();
    const socket = await tunnel(server.port);
    socket.end(Buffer.from(text.replaceAll("PORT", String(server.port)), "latin1"));
    const [answer] = (await once(socket, "data")) as [Buffer];
    expect(answer.toString()).toMatch(/^HTTP\/1\.1 200 .*hi/s);
    expect(server.text()).not.toBe("");
  });
});

describe("CONNECT and whole URLs", () => {
  const hosts = [
    "ok.test.evil.test",
    "evil.test",
    "ok.test@evil.test",
    "evil.test#ok.test",
    "evil.test?ok.test",
    "evil.test/ok.test",
    "ok.test:80@evil.test",
    "ok.test%00.evil.test",
    "ok.test\\evil.test",
    "[::ffff:127.0.0.1]",
    "127.1",
    "0x7f.1",
    "017700000001",
    "2130706433",
    "０.０.０.０",
    "127。0。0。1",
    "localhost",
    "ok.test:0",
    "ok.test:65536",
    "ok.test:443:80",
    ":443",
    "*.test",
  ];
  it.each(hosts)("for %j are refused", async (host) => {
    for (const named of [host, "ok.test"]) {
      const connecting = await rig.say([
        Buffer.from(`CONNECT ${host}:${securePort} HTTP/1.1\r\nHost: ${named}:${securePort}\r\n\r\n`),
      ]);
      expect(connecting).toMatch(/^(HTTP\/1\.1 (400|403) |$)/);
      const plain = await rig.say([
        Buffer.from(`GET http://${host}:${securePort}/ HTTP/1.1\r\nHost: ${named}:${securePort}\r\n\r\n`),
      ]);
      expect(plain).toMatch(/^(HTTP\/1\.1 (400|403) |$)/);
    }
  });
});
