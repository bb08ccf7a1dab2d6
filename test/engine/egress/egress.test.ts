import { once } from "node:events";
import {
  createServer as createHttpServer,
  request as httpRequest,
  type IncomingMessage,
  type Server,
} from "node:http";
import { createServer as createHttpsServer } from "node:https";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import { connect as connectTls } from "node:tls";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createEgress, type Egress } from "../../../src/engine/egress/egress.ts";
import type { EgressEvent } from "../../../src/engine/egress/upstream.ts";
import { createAuthority } from "../../server/certificates.ts";

let egress: Egress;
let proxy: ReturnType<typeof createServer>;
let proxyPort: number;
let plain: Server;
let plainPort: number;
let secure: ReturnType<typeof createHttpsServer>;
let securePort: number;
const events: EgressEvent[] = [];
const lookups: string[] = [];

const names: Record<string, string[]> = {
  "ok.test": ["127.0.0.1"],
  "rebinds.test": ["127.0.0.1"],
  "two.test": ["10.255.255.1", "127.0.0.1"],
};
const rules = () => ({
  allow: [`internal:ok.test`, "internal:two.test", "rebinds.test", "gone.test", "unknown.test"],
  deny: ["10.0.0.0/8"],
});

beforeAll(async () => {
  egress = createEgress({
    rules: rules(),
    resolve: async (name) => {
      lookups.push(name);
      const found = names[name];
      if (!found) throw new Error("no such name");
      return found;
    },
    onDecision: (event) => events.push(event),
    most: 50,
  });
  proxy = createServer({ allowHalfOpen: true }, (client) => egress.serve(client));
  plain = createHttpServer(async (request, response) => {
    response.setHeader("x-host", request.headers.host ?? "");
    response.setHeader("x-url", request.url ?? "");
    response.end(request.method === "POST" ? await text(request) : "hello");
  });
  plain.on("upgrade", (_request, socket: Socket) => {
    socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    socket.pipe(socket);
  });
  using authority = createAuthority();
  const { key, cert } = authority.issue("ok", "DNS:ok.test");
  secure = createHttpsServer({ key, cert }, (_request, response) => response.end("secret hello"));
  for (const server of [proxy, plain, secure]) server.listen(0, "127.0.0.1");
  await Promise.all([proxy, plain, secure].map((server) => server.listening || once(server, "listening")));
  const portOf = (server: { address(): unknown }) => (server.address() as AddressInfo).port;
  [proxyPort, plainPort, securePort] = [portOf(proxy), portOf(plain), portOf(secure)];
});

afterAll(() => {
  egress.close();
  for (const server of [plain, secure]) server.closeAllConnections();
  for (const server of [proxy, plain, secure]) server.close();
});

/** What a client gets that says all of this, one piece after the other. */
async function say(...pieces: (string | Buffer)[]): Promise<string> {
  const socket = connect({ port: proxyPort, host: "127.0.0.1", allowHalfOpen: true });
  for (const piece of pieces) {
    socket.write(piece);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  socket.end();
  return await text(socket).catch((error: Error) => error.message);
}

async function get(
  url: string,
  options: { method?: string; body?: string; headers?: Record<string, string> } = {},
) {
  const request = httpRequest({
    host: "127.0.0.1",
    port: proxyPort,
    path: url,
    method: options.method ?? "GET",
    headers: { host: new URL(url).host, ...options.headers },
  });
  request.end(options.body);
  const [response] = (await once(request, "response")) as [IncomingMessage];
  return { status: response.statusCode, headers: response.headers, body: await text(response) };
}

async function tunnelTo(host: string, port: number): Promise<{ status: number; socket: Socket }> {
  const request = httpRequest({
    host: "127.0.0.1",
    port: proxyPort,
    method: "CONNECT",
    path: `${host}:${port}`,
    headers: { host: `${host}:${port}` },
  });
  request.end();
  const [response, socket, head] = (await once(request, "connect")) as [IncomingMessage, Socket, Buffer];
  if (head.length > 0) socket.unshift(head);
  return { status: response.statusCode ?? 0, socket };
}

describe("plain requests", () => {
  it("forwards them, with the path and the host that was asked for", async () => {
    const answer = await get(`http://ok.test:${plainPort}/a/b?c=d`);
    expect(answer).toMatchObject({ status: 200, body: "hello" });
    expect(answer.headers).toMatchObject({ "x-url": "/a/b?c=d", "x-host": `ok.test:${plainPort}` });
  });

  it("answers one who has ended its direction, however long the answer takes", async () => {
    const late = createHttpServer((_request, response) => void setTimeout(() => response.end("late"), 50));
    late.listen(0, "127.0.0.1");
    await once(late, "listening");
    const { port } = late.address() as AddressInfo;
    const socket = connect({ port: proxyPort, host: "127.0.0.1", allowHalfOpen: true });
    socket.end(`GET http://ok.test:${port}/ HTTP/1.1\r\nHost: ok.test:${port}\r\n\r\n`);
    expect(await text(socket)).toMatch(/200 .*late/s);
    late.close();
  });

  it("carries bodies, and no field that is for the proxy", async () => {
    const body = "x".repeat(300_000);
    const answer = await get(`http://ok.test:${plainPort}/`, { method: "POST", body });
    expect(answer.body).toBe(body);
  });

  it("refuses a host that no rule allows, and asks no name server for it", async () => {
    lookups.length = 0;
    const answer = await get(`http://data.evil.test:${plainPort}/`);
    expect(answer.status).toBe(403);
    expect(answer.body).toContain("no rule allows data.evil.test");
    expect(lookups).toEqual([]);
    expect(events.at(-1)).toMatchObject({ host: "data.evil.test", allowed: false });
  });

  it("refuses an allowed name that leads inside", async () => {
    const answer = await get(`http://rebinds.test:${plainPort}/`);
    expect(answer.status).toBe(403);
    expect(answer.body).toContain("internal address");
  });

  it.each(["127.0.0.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"])(
    "refuses %s",
    async (host) => {
      expect(
        await say(`GET http://${host}:${plainPort}/ HTTP/1.1\r\nHost: ${host}:${plainPort}\r\n\r\n`),
      ).toMatch(/^HTTP\/1.1 403/);
    },
  );

  it("tries the next address, and none that is denied", async () => {
    expect((await get(`http://two.test:${plainPort}/`)).status).toBe(200);
  });

  it("says what can't be reached", async () => {
    expect((await get("http://unknown.test/")).status).toBe(502);
    expect((await get("http://ok.test:1/")).body).toContain("ECONNREFUSED");
  });

  it.each([
    ["another Host", "GET http://ok.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n"],
    ["two Hosts", "GET http://ok.test/ HTTP/1.1\r\nHost: ok.test\r\nHost: other.test\r\n\r\n"],
    ["no Host", "GET http://ok.test/ HTTP/1.1\r\n\r\n"],
    ["a path", "GET / HTTP/1.1\r\nHost: ok.test\r\n\r\n"],
    ["user information", "GET http://ok.test@evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n"],
    ["a backslash", "GET http://ok.test\\@evil.test/ HTTP/1.1\r\nHost: ok.test\r\n\r\n"],
    [
      "two lengths",
      "POST http://ok.test/ HTTP/1.1\r\nHost: ok.test\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    ],
    [
      "a length and chunks",
      "POST http://ok.test/ HTTP/1.1\r\nHost: ok.test\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
    ["a folded field", "GET http://ok.test/ HTTP/1.1\r\nHost: ok.test\r\nX: a\r\n b\r\n\r\n"],
    ["a space before a colon", "GET http://ok.test/ HTTP/1.1\r\nHost : ok.test\r\n\r\n"],
    ["garbage", "\0\0\0\0garbage\r\n\r\n"],
  ])("refuses %s", async (_what, request) => {
    expect(await say(request)).toMatch(/^HTTP\/1.1 400/);
  });

  it("answers a client that has said all it has to say", async () => {
    const late = createHttpServer((_request, response) => {
      setTimeout(() => response.end("late"), 100);
    }).listen(0, "127.0.0.1");
    await once(late, "listening");
    const { port } = late.address() as AddressInfo;
    // With its half of the connection closed at once, as `printf … | nc` does.
    const host = `ok.test:${port}`;
    expect(await say(`GET http://${host}/ HTTP/1.1\r\nHost: ${host}\r\n\r\n`)).toMatch(/^HTTP.* 200 .*late/s);
    late.close();
  });

  it("changes the protocol where the server agrees", async () => {
    const answer = await say(
      `GET http://ok.test:${plainPort}/ HTTP/1.1\r\nHost: ok.test:${plainPort}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n`,
      "and back",
    );
    expect(answer).toMatch(/^HTTP\/1.1 101/);
    expect(answer).toMatch(/and back$/);
  });
});

describe("tunnels", () => {
  const hello = async (host: string, servername: string) => {
    const { status, socket } = await tunnelTo(host, securePort);
    expect(status).toBe(200);
    const tls = connectTls({ socket, servername, rejectUnauthorized: false });
    tls.write(`GET / HTTP/1.1\r\nHost: ${servername}\r\nConnection: close\r\n\r\n`);
    return await text(tls).catch((error: Error) => `broken: ${error.message}`);
  };

  it("carry TLS to the host that was asked for", async () => {
    expect(await hello("ok.test", "ok.test")).toContain("secret hello");
    expect(await hello("ok.test", "OK.test")).toContain("secret hello");
  });

  it("break when TLS names another host", async () => {
    expect(await hello("ok.test", "other.test")).not.toContain("hello");
    expect(events.at(-1)).toMatchObject({ host: "other.test", allowed: false });
  });

  it("are refused to hosts that no rule allows", async () => {
    expect((await tunnelTo("evil.test", 443)).status).toBe(403);
    expect((await tunnelTo("rebinds.test", securePort)).status).toBe(403);
  });

  it("takes HTTP/1.0 without a Host, as Python's clients speak to proxies", async () => {
    // Not ended by the client: who hangs up gets no answer that takes a while.
    const open = (request: string) => {
      const socket = connect({ port: proxyPort, host: "127.0.0.1" });
      socket.write(request);
      return socket;
    };
    const tunnel = open(`CONNECT ok.test:${plainPort} HTTP/1.0\r\n\r\n`);
    expect(String((await once(tunnel, "data"))[0])).toMatch(/^HTTP\/1.1 200 /);
    tunnel.write(`GET / HTTP/1.1\r\nHost: ok.test:${plainPort}\r\nConnection: close\r\n\r\n`);
    expect(await text(tunnel)).toMatch(/^HTTP\/1.1 200 .*hello$/s);
    expect(await text(open(`GET http://ok.test:${plainPort}/ HTTP/1.0\r\n\r\n`))).toMatch(/200 .*hello$/s);
    expect(await text(open(`CONNECT ok.test:${plainPort} HTTP/1.1\r\n\r\n`))).toMatch(/^HTTP\/1.1 400/);
  });

  it("hold each plain request in them to that host", async () => {
    const head = `CONNECT ok.test:${plainPort} HTTP/1.1\r\nHost: ok.test:${plainPort}\r\n\r\n`;
    const good = `GET /in HTTP/1.1\r\nHost: ok.test:${plainPort}\r\n\r\n`;
    const bad = `GET /in HTTP/1.1\r\nHost: other.test:${plainPort}\r\n\r\n`;
    expect(await say(head, good)).toMatch(/hello$/);
    const answer = await say(head, good, bad);
    expect(answer).toContain("x-url: /in");
    expect(answer).toContain("403 Forbidden");
  });

  it.each([
    "CONNECT ok.test HTTP/1.1\r\nHost: ok.test\r\n\r\n",
    "CONNECT ok.test:443 HTTP/1.1\r\nHost: other.test:443\r\n\r\n",
  ])("are refused to %j", async (request) => {
    expect(await say(request)).toMatch(/^HTTP\/1.1 400/);
  });

  it("let a server speak first, and pass on half-close", async () => {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.write("220 ready\r\n");
      let got = "";
      socket.on("data", (chunk: Buffer) => {
        got += chunk.toString();
      });
      socket.on("end", () => socket.end(`got ${got}`));
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    const { socket } = await tunnelTo("ok.test", port);
    await once(socket, "readable");
    expect(socket.read()?.toString()).toBe("220 ready\r\n");
    socket.end("1 2 3");
    expect(await text(socket)).toBe("got 1 2 3");
    server.close();
  });

  it("end when the rules change", async () => {
    const { socket } = await tunnelTo("ok.test", securePort);
    const closed = once(socket, "close");
    egress.replace({ allow: [], deny: [] });
    await closed;
    expect((await tunnelTo("ok.test", securePort)).status).toBe(403);
    egress.replace(rules());
    expect((await tunnelTo("ok.test", securePort)).status).toBe(200);
  });
});

describe("SOCKS", () => {
  const request = (host: string, port: number, command = 1) =>
    Buffer.concat([
      Buffer.from([5, command, 0, 3, host.length]),
      Buffer.from(host),
      Buffer.from([port >> 8, port & 0xff]),
    ]);
  const greeting = Buffer.from([5, 1, 0]);
  const talk = async (...pieces: Buffer[]) => Buffer.from(await say(...pieces), "utf8");

  it("connects by name, and looks the name up outside", async () => {
    const http = Buffer.from(`GET /socks HTTP/1.0\r\nHost: ok.test:${plainPort}\r\n\r\n`);
    const answer = (await talk(greeting, request("ok.test", plainPort), http)).toString();
    expect(answer).toContain("x-url: /socks");
  });

  it("takes messages in pieces and all at once", async () => {
    const http = Buffer.from(`GET /one HTTP/1.0\r\nHost: ok.test:${plainPort}\r\n\r\n`);
    const all = Buffer.concat([greeting, request("ok.test", plainPort), http]);
    expect((await talk(all)).toString()).toContain("x-url: /one");
    expect(
      (
        await talk(...[...all.subarray(0, 12)].map((byte) => Buffer.from([byte])), all.subarray(12))
      ).toString(),
    ).toContain("x-url: /one");
  });

  it("refuses what no rule allows, and every command but CONNECT", async () => {
    expect([...(await talk(greeting, request("evil.test", 443)))].slice(0, 4)).toEqual([5, 0, 5, 2]);
    expect([...(await talk(greeting, request("ok.test", 443, 3)))].slice(0, 4)).toEqual([5, 0, 5, 7]);
    expect([...(await talk(Buffer.from([5, 1, 2])))].slice(0, 1)).toEqual([5]);
  });
});
