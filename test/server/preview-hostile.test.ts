import { connect } from "node:net";
import { describe, expect, it, onTestFinished } from "vitest";
import { WebSocket, WebSocketServer } from "ws";
import { silentLogger } from "../../src/lib/log.ts";
import { createPreviewTokens } from "../../src/server/preview/tokens.ts";
import { createServer } from "../../src/server/server.ts";
import { cookieOf, KEY, PORT, previewRig, type Rig } from "./preview-rig.ts";
import { rawExchange, upgradeRequest } from "./raw.ts";

const page = { accept: "text/html" };
const byPath = (rest = "/", id = "box", port = PORT) => `/api/v1/sandboxes/${id}/preview/${port}${rest}`;
const ok = { status: 200, body: "inside" };

const rigOf = (options?: Parameters<typeof previewRig>[1]) =>
  previewRig((_request, response) => response.end("inside"), options);

async function cookie(rig: Rig): Promise<string> {
  const { token } = await rig.link();
  return cookieOf(await rig.ask({ path: `/?warren_token=${token}`, headers: page }));
}

describe("a token", () => {
  it("is good for one port of one sandbox of one engine, until it expires, and as it was made", async () => {
    let now = 1_000_000;
    const tokens = createPreviewTokens(Buffer.alloc(32, 1), () => now);
    const token = tokens.sign("box", 3000, 2000);
    expect(tokens.verify(token, "box", 3000)).toBe(2000);
    expect(tokens.verify(token, "box", 3001)).toBeUndefined();
    expect(tokens.verify(token, "boxx", 3000)).toBeUndefined();
    expect(createPreviewTokens(Buffer.alloc(32, 2), () => now).verify(token, "box", 3000)).toBeUndefined();
    const [expiry = "", digest = ""] = token.split(".");
    for (const forged of [
      "",
      ".",
      `${expiry}.`,
      `zzzz.${digest}`,
      `${expiry}.${digest.slice(0, -1)}`,
      `${expiry}.${digest}A`,
      `${expiry}.${digest}.${digest}`,
      ` ${token}`,
      `0${token}`,
      token.toUpperCase(),
      "a".repeat(100_000),
    ]) {
      expect(tokens.verify(forged, "box", 3000), forged.slice(0, 60)).toBeUndefined();
    }
    now = 2_000_000;
    expect(tokens.verify(token, "box", 3000)).toBeUndefined();
  });

  it("opens nothing else: not another port, nor another sandbox, nor the API", async () => {
    await using rig = await rigOf();
    const { token } = await rig.link();
    const query = `?warren_token=${token}`;
    expect(await rig.ask({ path: `/${query}` })).toMatchObject(ok);
    for (const asked of [
      { host: rig.host(3001), path: `/${query}` },
      { host: rig.host(PORT, "stopped"), path: `/${query}` },
      { host: rig.host(PORT, "nobody"), path: `/${query}` },
      { path: "/" },
      { path: `/?warren_token=${token}x` },
      { path: "/", headers: { cookie: "warren-preview=x", "x-api-key": "wrong" } },
      { path: "/", headers: { cookie: `__Host-warren-preview=${token}` } },
      { host: "localhost", path: byPath(`/${query}`, "nobody") },
      { host: "localhost", path: byPath(`/${query}`, "box", 3001) },
    ]) {
      expect(await rig.ask(asked), JSON.stringify(asked)).toMatchObject({ status: 401 });
    }
    for (const headers of [
      { authorization: `Bearer ${token}` },
      { "x-api-key": token },
      { "x-warren-token": token },
    ]) {
      expect(await rig.ask({ host: "localhost", path: `/api/v1/sandboxes${query}`, headers })).toMatchObject({
        status: 401,
      });
    }
    expect(rig.asked).toHaveLength(1);
  });

  it("is in no log, and neither is a key", async () => {
    await using rig = await rigOf();
    const { token } = await rig.link();
    await rig.ask({ path: `/secret-page?warren_token=${token}`, headers: page });
    await rig.ask({ path: `/?%77arren_token=${token}` });
    await rig.ask({ path: "/", headers: { "x-api-key": KEY, cookie: `warren-preview=${token}` } });
    await rig.ask({ host: rig.host(3001), path: `/?warren_token=${token}` });
    expect(rig.log).toContain("/secret-page");
    expect(rig.log).not.toContain(token);
    expect(rig.log).not.toContain(KEY);
  });
});

describe("a server inside", () => {
  it("never hears of keys, tokens and our cookies, however they are sent", async () => {
    await using rig = await rigOf();
    const { token } = await rig.link();
    const ours = `warren-preview=${token}; __Host-warren-preview=${token}; mine=1`;
    for (const headers of [
      { "x-api-key": KEY },
      { authorization: `Bearer ${KEY}` },
      { authorization: `bearer   ${KEY} ` },
      { "x-warren-token": token },
      { cookie: ours },
      { referer: `http://${rig.host()}/?warren_token=${token}`, cookie: ours },
      { "x-api-key": KEY, authorization: `Bearer ${KEY}`, cookie: ours, "x-warren-token": token },
      {
        cookie: ours,
        "proxy-authorization": `Basic ${KEY}`,
        "x-forwarded-for": "9.9.9.9",
        forwarded: "for=9.9.9.9",
        "x-real-ip": "9.9.9.9",
      },
    ]) {
      expect(
        await rig.ask({ path: `/?a=1&warren_token=${token}`, headers }),
        JSON.stringify(headers),
      ).toMatchObject(ok);
      const seen = rig.asked.at(-1);
      const all = `${seen?.url}\n${seen?.rawHeaders.join("\n")}`;
      expect(all, JSON.stringify(headers)).not.toContain(token);
      expect(all).not.toContain(KEY);
      expect(all).not.toContain("9.9.9.9");
      expect(seen?.url).toBe("/?a=1");
    }
    // What is the application's own goes through.
    const own = {
      authorization: "Bearer its-own",
      "x-api-key": "its-own",
      cookie: `${await cookie(rig)}; mine=1`,
    };
    expect(await rig.ask({ headers: own })).toMatchObject(ok);
    expect(rig.asked.at(-1)?.headers).toMatchObject({ ...own, cookie: "mine=1" });
  });

  it("does not act on other ports, other sandboxes' names or the API by its answers", async () => {
    const farReaching = {
      "clear-site-data": '"*"',
      "strict-transport-security": "max-age=9; includeSubDomains",
      "alt-svc": 'h2="evil:1"',
      "keep-alive": "timeout=1",
      "x-hop": "1",
      connection: "x-hop",
      "set-cookie": ["warren-preview=evil; Path=/", "__Host-warren-preview=evil", "sid=1; Domain=.localhost"],
    };
    await using rig = await previewRig((_request, response) => {
      response.writeHead(200, farReaching).end("inside");
    });
    const bare = await fetch(`http://127.0.0.1:${(rig.inside.address() as { port: number }).port}`);
    expect(bare.headers.get("clear-site-data")).toBe('"*"');
    const { headers } = await rig.ask({ headers: { "x-api-key": KEY } });
    expect(headers["set-cookie"]).toEqual(["sid=1"]);
    for (const name of ["clear-site-data", "strict-transport-security", "alt-svc", "x-hop"]) {
      expect(headers[name], name).toBeUndefined();
    }
  });

  it("can't switch protocols unasked, nor break out of an answer's head", async () => {
    await using rig = await previewRig((request) => {
      request.socket.end(
        request.url === "/101"
          ? "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfree bytes"
          : request.url === "/1xx"
            ? `${"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(3)}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ninside`
            : request.url === "/two"
              ? "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ninsideHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
              : "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\nX: a\rSet-Cookie: b\r\n\r\n6\r\ninside\r\n0\r\n\r\n",
      );
    });
    const headers = { "x-api-key": KEY };
    expect(await rig.ask({ path: "/101", headers })).toMatchObject({ status: 502 });
    expect(await rig.ask({ path: "/1xx", headers })).toMatchObject(ok);
    expect(await rig.ask({ path: "/two", headers })).toMatchObject(ok);
    expect(await rig.ask({ path: "/mixed", headers })).toMatchObject({ status: 502 });
  });
});

describe("a page of somebody else", () => {
  const asks = (rig: Rig, headers: Record<string, string>) => ({
    ...headers,
    ...(headers.origin === "own" ? { origin: `http://${rig.host()}` } : {}),
  });

  it("can't use a browser's cookie, save to lead it here", async () => {
    await using rig = await rigOf();
    const jar = await cookie(rig);
    const visit = { "sec-fetch-mode": "navigate", "sec-fetch-dest": "document" };
    for (const [headers, method, status] of [
      [{ origin: "own", "sec-fetch-site": "same-origin" }, "POST", 200],
      [{ origin: "null", "sec-fetch-site": "same-origin" }, "POST", 200],
      [{ "sec-fetch-site": "none", ...visit }, "GET", 200],
      [{ "sec-fetch-site": "cross-site", ...visit }, "GET", 200],
      [{ "sec-fetch-site": "cross-site", ...visit }, "POST", 403],
      [{ "sec-fetch-site": "same-site", ...visit, "sec-fetch-dest": "iframe" }, "GET", 403],
      [{ "sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors" }, "GET", 403],
      [{ "sec-fetch-site": "cross-site", "sec-fetch-mode": "websocket" }, "GET", 403],
      [{ origin: `http://${rig.host(3001)}` }, "GET", 403],
      [{ origin: "null" }, "POST", 403],
      [{ origin: `http://localhost:${rig.served.port}` }, "GET", 403],
    ] as const) {
      const answer = await rig.ask({ method, headers: { cookie: jar, ...asks(rig, headers as never) } });
      expect(answer.status, JSON.stringify([method, headers])).toBe(status);
    }
    const sockets = new WebSocketServer({ server: rig.inside });
    for (const [origin, opens] of [
      [`http://${rig.host()}`, true],
      [`http://${rig.host(3001)}`, false],
      ["http://evil.example", false],
    ] as const) {
      const socket = new WebSocket(`ws://127.0.0.1:${rig.served.port}/`, {
        headers: { host: rig.host(), cookie: jar },
        origin,
      });
      socket.on("error", () => {});
      const opened = await new Promise((resolve) => {
        socket.once("open", () => resolve(true)).once("close", () => resolve(false));
      });
      expect(opened, origin).toBe(opens);
      socket.terminate();
    }
    sockets.close();
  });

  it("can't either where browsers don't say whose page asks: by a name that is not this machine's, without TLS", async () => {
    await using rig = await rigOf({ ports: { domain: { domain: "preview.test" } } });
    const jar = await cookie(rig);
    const host = `${PORT}-box.preview.test:${rig.served.port}`;
    const [own, other] = [`http://${host}/page`, `http://${PORT}-other.preview.test/page`];
    const visit = { "upgrade-insecure-requests": "1" };
    for (const [headers, method, outcome] of [
      [{ referer: own }, "GET", "own"],
      [{ origin: `http://${host}` }, "POST", "own"],
      [visit, "GET", "visit"],
      [{ referer: other, ...visit }, "GET", "visit"],
      [{ "sec-fetch-site": "same-origin" }, "GET", "own"],
      [{}, "GET", "refused"],
      [{ accept: "text/html" }, "GET", "refused"],
      [{ referer: other }, "GET", "refused"],
      [{ referer: `${other}?${own}` }, "GET", "refused"],
      [visit, "POST", "refused"],
      [{ origin: "null" }, "POST", "refused"],
      [{ origin: `http://${PORT}-other.preview.test`, ...visit }, "GET", "refused"],
      [{ "sec-fetch-site": "same-site", ...visit }, "GET", "refused"],
    ] as const) {
      const { status, headers: got } = await rig.ask({ host, method, headers: { cookie: jar, ...headers } });
      const isFramed = got["content-security-policy"] !== "frame-ancestors 'self'";
      const said = status === 403 ? "refused" : status === 200 ? (isFramed ? "own" : "visit") : status;
      expect([method, headers, said]).toEqual([method, headers, outcome]);
    }
  });

  it("can't use a server without keys through its path, which this machine's programs can", async () => {
    await using rig = await rigOf({ apiKeys: [] });
    const host = `localhost:${rig.served.port}`;
    expect(await rig.ask({ host, path: byPath() })).toMatchObject(ok);
    for (const [name, headers] of [
      [host, { "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors" }],
      [host, { "sec-fetch-site": "same-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document" }],
      [host, { origin: "null" }],
      [host, { origin: `http://${rig.host()}` }],
      [`evil.example:${rig.served.port}`, {}],
      [host, { "service-worker": "script" }],
    ] as const) {
      expect(
        await rig.ask({ host: name, path: byPath(), headers }),
        JSON.stringify([name, headers]),
      ).toMatchObject({ status: 403 });
    }
    // By name even they need a link: a browser that is led there has none.
    expect(await rig.ask({})).toMatchObject({ status: 401 });
    expect(rig.asked).toHaveLength(1);
    // And what comes of a port can't use the API, which without the guard it could: its name is one of this machine's.
    for (const origin of ["null", `http://${rig.host()}`]) {
      expect(
        await rig.ask({ host, path: "/api/v1/sandboxes", method: "POST", headers: { origin }, body: "{}" }),
      ).toMatchObject({ status: 403 });
    }
    expect(
      await rig.ask({ host, path: "/api/v1/sandboxes", headers: { origin: `http://${host}` } }),
    ).toMatchObject({ status: 200 });
  });
});

describe("a listener for nothing but previews", () => {
  it("lets nobody in without a link: neither by path, nor to a raw connection, nor to the API", async () => {
    await using rig = await rigOf({ apiKeys: [] });
    let port = 0;
    const onPort = (opened: number) => {
      port = opened;
    };
    const server = createServer(rig.served.api, {
      log: silentLogger,
      ports: { key: Buffer.alloc(32, 7), dial: rig.dial, listener: { port, onPort } },
    });
    onTestFinished(() => server.close());
    await server.listenForPreviews();
    const { token } = await rig.link();
    const ask = (path: string, host: string, more = "Connection: close\r\n") =>
      rawExchange(port, `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n${more}\r\n`);
    const own = `127.0.0.1:${port}`;
    for (const path of [byPath(), byPath(`/?warren_token=${token}`), "/api/v1/health", "/api/v1/sandboxes"]) {
      expect([path, await ask(path, own)]).toEqual([path, expect.stringMatching(/^HTTP\/1\.1 404 /)]);
    }
    const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (const path of [byPath(), `/api/v1/sandboxes/box/ports/${PORT}/connect`]) {
      expect(await ask(path, own, upgrade)).toMatch(/^HTTP\/1\.1 404 /);
    }
    expect(rig.asked).toEqual([]);
    const name = `${PORT}-box.localhost:${port}`;
    expect(await ask("/", name)).toMatch(/^HTTP\/1\.1 401 /);
    expect(await ask(`/?warren_token=${token}`, name)).toMatch(/^HTTP\/1\.1 200 .*inside/s);
    // By the listener of the API, which is for this machine's programs, the path is open to them.
    expect(await rig.ask({ path: byPath(), host: `127.0.0.1:${rig.served.port}` })).toMatchObject(ok);
  });
});

describe("a request", () => {
  it("for a port's name goes to that port and never to the API", async () => {
    await using rig = await rigOf({ apiKeys: [] });
    const { token } = (await (
      await fetch(`${rig.served.url}/api/v1/sandboxes/box/ports/${PORT}/preview`, {
        method: "POST",
        body: "{}",
      })
    ).json()) as { token: string };
    for (const path of [
      "/api/v1/sandboxes",
      "/api/v1/health",
      byPath("/x", "box", 3001),
      "/api/v1/../v1/sandboxes",
      "/..%2f..",
      "/a/../../b",
      "//evil.example/",
    ]) {
      expect(await rig.ask({ path, headers: { "x-warren-token": token } }), path).toMatchObject(ok);
      expect(rig.asked.at(-1)?.url).toBe(path);
    }
    for (const path of ["/api/v1/sandboxes", "/api/v1/health"])
      expect(await rig.ask({ path })).toMatchObject({ status: 401 });
    const up = await rawExchange(
      rig.served.port,
      upgradeRequest("/api/v1/sandboxes/box/exec/stream", { Host: rig.host() }),
    );
    expect(up).toMatch(/^HTTP\/1\.1 401 /);
  });

  it("by path stays below the port that it names", async () => {
    await using rig = await rigOf();
    const headers = { "x-api-key": KEY };
    for (const rest of [
      "/../../../../exec",
      "/..%2f../x",
      "/%2e%2e/",
      "//evil.example/",
      "/;/..",
      "/?/../",
    ]) {
      expect(await rig.ask({ host: "localhost", path: byPath(rest), headers }), rest).toMatchObject(ok);
      expect(rig.asked.at(-1)?.url).toBe(rest);
    }
    for (const path of [
      byPath("/", "box", 0),
      byPath("/", "box", 99_999),
      "/api/v1/sandboxes/box/preview/3000x/",
      "/api/v1/sandboxes/../box/preview/3000/",
    ]) {
      expect(await rig.ask({ host: "localhost", path, headers }), path).toMatchObject({ status: 404 });
    }
  });

  it("can't say two things: two Hosts, a Host and another URL, two lengths, other upgrades", async () => {
    await using rig = await rigOf();
    const { token } = await rig.link();
    const host = rig.host();
    const auth = `X-Warren-Token: ${token}\r\n`;
    const post = `POST / HTTP/1.1\r\nHost: ${host}\r\n${auth}`;
    const send = async (text: string) => (await rawExchange(rig.served.port, text)).split("\r\n")[0];
    expect(await send(`GET http://${host}/x HTTP/1.1\r\nHost: ${host}\r\n${auth}\r\n`)).toMatch(/ 200 /);
    expect(rig.asked.at(-1)?.url).toBe("/x");
    const before = rig.asked.length;
    for (const text of [
      `GET http://${rig.host(PORT, "stopped")}/ HTTP/1.1\r\nHost: ${host}\r\n${auth}\r\n`,
      `GET http://localhost:${rig.served.port}/api/v1/sandboxes HTTP/1.1\r\nHost: ${host}\r\n${auth}\r\n`,
      `GET http://${host}@evil.example/ HTTP/1.1\r\nHost: ${host}\r\n${auth}\r\n`,
      `GET / HTTP/1.1\r\nHost: ${host}\r\nHost: localhost\r\n${auth}\r\n`,
      `OPTIONS * HTTP/1.1\r\nHost: ${host}\r\n${auth}\r\n`,
      `${post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n`,
      `${post}Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde`,
      `${post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n`,
      `${post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n`,
      `GET / HTTP/1.1\r\nHost: ${host}\r\n${auth}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n`,
      `GET / HTTP/1.1\r\nHost: ${host}\r\n${auth}Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n`,
      `POST / HTTP/1.1\r\nHost: ${host}\r\n${auth}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n`,
    ]) {
      expect(await send(text), text).toMatch(/^HTTP\/1\.1 400 /);
    }
    const tunnel = connect(rig.served.port, "127.0.0.1");
    tunnel.write(`CONNECT ${host} HTTP/1.1\r\nHost: ${host}\r\n${auth}\r\n`);
    const said: Buffer[] = [];
    for await (const chunk of tunnel) said.push(chunk);
    expect(Buffer.concat(said).toString()).not.toContain("200");
    expect(rig.asked).toHaveLength(before);
  });

  it("leaves nothing behind for the next one on its connection", async () => {
    await using rig = await rigOf();
    const head = `Host: ${rig.host()}\r\nX-Api-Key: ${KEY}\r\n`;
    // The body is not read inside before the answer, and looks like a request.
    const body = `GET /smuggled HTTP/1.1\r\n${head}\r\n`.padEnd(200_000, "x");
    const socket = connect(rig.served.port, "127.0.0.1");
    socket.write(
      `POST /one HTTP/1.1\r\n${head}Content-Length: ${body.length}\r\n\r\n${body}GET /two HTTP/1.1\r\n${head}Connection: close\r\n\r\n`,
    );
    let text = "";
    for await (const chunk of socket) text += chunk;
    expect(text.match(/HTTP\/1\.1 200/g)).toHaveLength(2);
    expect(rig.asked.map(({ url }) => url)).toEqual(["/one", "/two"]);
  });
});
