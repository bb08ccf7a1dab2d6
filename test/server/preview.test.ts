import { createHash } from "node:crypto";
import { once } from "node:events";
import { Agent, request as httpRequest } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { WebSocket, WebSocketServer } from "ws";
import { createNodeClient } from "../../src/client/node/index.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { createServer } from "../../src/server/server.ts";
import { tempDir } from "../engine/support/temp-dir.ts";
import { createAuthority } from "./certificates.ts";
import { createHostApi } from "./host-api.ts";
import { cookieOf, KEY, PORT, previewRig } from "./preview-rig.ts";
import { rawExchange } from "./raw.ts";

const page = { accept: "text/html,*/*;q=0.8" };
const path = (rest = "/") => `/api/v1/sandboxes/box/preview/${PORT}${rest}`;

describe("a preview link", () => {
  it("lets a browser in, which then has a cookie and an address without the secret", async () => {
    await using rig = await previewRig((_request, response) => response.end("inside"));
    const link = await rig.link(PORT, 600);
    expect(link.url).toBe(`http://${rig.host()}/?warren_token=${link.token}`);
    expect(Date.parse(link.expires_at) - Date.now()).toBeGreaterThan(590_000);
    const first = await rig.ask({ path: `/a//b?x=1&warren_token=${link.token}&y=%20`, headers: page });
    expect(first).toMatchObject({ status: 302, body: "" });
    expect(first.headers).toMatchObject({
      location: "/a//b?x=1&y=%20",
      "cache-control": "no-store",
      "referrer-policy": "no-referrer",
    });
    const [cookie = ""] = first.headers["set-cookie"] ?? [];
    expect(cookie).toMatch(/^warren-preview=[^;]+; Path=\/; Max-Age=(599|600); HttpOnly; SameSite=Lax$/);
    expect(rig.asked).toHaveLength(0);
    const second = await rig.ask({
      path: "/a//b?x=1&y=%20",
      headers: { ...page, cookie: `own=1; ${cookieOf(first)}; other=2` },
    });
    expect(second).toMatchObject({ status: 200, body: "inside" });
    expect(second.headers["x-content-type-options"]).toBeUndefined();
    const [seen] = rig.asked;
    expect(seen?.url).toBe("/a//b?x=1&y=%20");
    expect(seen?.headers).toMatchObject({
      host: rig.host(),
      cookie: "own=1; other=2",
      "x-forwarded-for": "127.0.0.1",
      "x-forwarded-host": rig.host(),
      "x-forwarded-proto": "http",
    });
    // A program has no page to keep the secret out of.
    expect(await rig.ask({ path: `/?warren_token=${link.token}&z` })).toMatchObject({ status: 200 });
    expect(rig.asked.at(-1)?.url).toBe("/?z");
    expect(await rig.ask({ headers: { "x-warren-token": link.token } })).toMatchObject({ status: 200 });
    expect(rig.asked.at(-1)?.headers["x-warren-token"]).toBeUndefined();
  });

  it("is by path where no name leads here, and answers as nobody's page", async () => {
    await using rig = await previewRig((request, response) => {
      const redirects: Record<string, string> = {
        "/absolute": "/next?a=1",
        "/own": `http://localhost:${PORT}/next`,
        "/far": "https://example.com/x",
        "/slashes": "//example.com/x",
      };
      const location = redirects[request.url ?? ""];
      response.writeHead(location ? 302 : 200, {
        "set-cookie": "a=b",
        "service-worker-allowed": "/",
        "access-control-allow-origin": "*",
        "content-security-policy": "default-src 'self'",
        ...(location ? { location } : {}),
      });
      response.end(request.headers.host);
    });
    const client = createNodeClient({ url: rig.served.url, apiKey: KEY });
    const { token } = await client.preview("box", PORT);
    const asked = { host: `192.0.2.7:${rig.served.port}` };
    const link = await rig.ask({
      ...asked,
      path: `/api/v1/sandboxes/box/ports/${PORT}/preview`,
      method: "POST",
      headers: { "x-api-key": KEY },
      body: "{}",
    });
    expect(JSON.parse(link.body).url).toMatch(`http://${asked.host}${path("/")}?warren_token=`);
    const first = await rig.ask({ ...asked, path: `${path("/x")}?warren_token=${token}`, headers: page });
    expect(first).toMatchObject({ status: 302, headers: { location: path("/x") } });
    expect(first.headers["set-cookie"]?.[0]).toContain(`; Path=${path("/")};`);
    const answer = await rig.ask({
      ...asked,
      path: path("/x?y"),
      // Browsers tell a server like this one no more.
      headers: { cookie: `jupyter=secret; ${cookieOf(first)}`, "upgrade-insecure-requests": "1" },
    });
    expect(answer).toMatchObject({ status: 200, body: `localhost:${PORT}` });
    expect(answer.headers).toMatchObject({ "x-content-type-options": "nosniff" });
    expect(answer.headers["content-security-policy"]).toBe(
      "default-src 'self', sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts, frame-ancestors 'self'",
    );
    for (const name of ["set-cookie", "service-worker-allowed", "access-control-allow-origin"]) {
      expect(answer.headers[name], name).toBeUndefined();
    }
    expect(rig.asked.at(-1)?.url).toBe("/x?y");
    // Cookies don't know ports: these are of whatever else this host serves.
    expect(rig.asked.at(-1)?.headers.cookie).toBeUndefined();
    expect(rig.asked.at(-1)?.headers["x-forwarded-prefix"]).toBe(path(""));
    const key = { "x-api-key": KEY };
    for (const [from, to] of [
      ["/absolute", path("/next?a=1")],
      ["/own", path("/next")],
      ["/far", "https://example.com/x"],
      ["/slashes", "//example.com/x"],
    ] as const) {
      expect((await rig.ask({ ...asked, path: path(from), headers: key })).headers.location, from).toBe(to);
    }
    expect((await rig.ask({ ...asked, path: path("?q"), headers: key })).headers.location).toBe(path("/?q"));
  });

  it("names what leads to the server: a domain, what stands before it, or a listener for previews alone", async () => {
    await using named = await previewRig((_request, response) => response.end("inside"), {
      ports: { domain: { domain: "preview.example.org" } },
    });
    expect((await named.link()).url).toMatch(`http://3000-box.preview.example.org:${named.served.port}/?`);
    expect(await named.ask({ host: "3000-box.preview.example.org" })).toMatchObject({ status: 401 });
    await using fronted = await previewRig(() => {}, {
      ports: { domain: { domain: "p.example.org", scheme: "https" } },
    });
    expect((await fronted.link()).url).toMatch("https://3000-box.p.example.org/?");

    // An engine that was started on demand has no listener on TCP.
    let chosen = 0;
    const listener = {
      port: 1, // which is not ours to have, or somebody's
      onPort(port: number) {
        chosen = port;
      },
    };
    using dir = tempDir();
    const { dial } = named;
    const server = createServer(createHostApi(), {
      log: silentLogger,
      ports: { key: Buffer.alloc(32), dial, listener },
    });
    onTestFinished(() => server.close());
    await server.listenUnix(join(dir.path, "engine.sock"));
    const client = createNodeClient({ url: `unix:${join(dir.path, "engine.sock")}` });
    const { url } = await client.preview("box", PORT);
    expect(new URL(url).host).toBe(`3000-box.localhost:${chosen}`);
    expect((await client.preview("box", PORT)).url).toContain(`:${chosen}/`);
    const raw = async (target: string, host: string) =>
      (await rawExchange(chosen, `GET ${target} HTTP/1.1\r\nHost: ${host}\r\n\r\n`)).split("\r\n")[0];
    expect(await raw(`/${new URL(url).search}`, `3000-box.localhost:${chosen}`)).toMatch(/ 200 /);
    expect(await raw("/api/v1/sandboxes", `localhost:${chosen}`)).toMatch(/ 404 /);
    expect(await raw("/api/v1/health", `127.0.0.1:${chosen}`)).toMatch(/ 404 /);
  });
});

describe("what goes through a preview", () => {
  it("is streamed both ways, large or slow, on connections that clients keep", async () => {
    let finish = () => {};
    await using rig = await previewRig(async (request, response) => {
      if (request.url === "/events") {
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.write("data: 1\n\n");
        finish = () => void response.end("data: 2\n\n");
        return;
      }
      const digest = createHash("sha256");
      for await (const chunk of request) digest.update(chunk);
      response.setHeader("x-digest", digest.digest("hex"));
      response.setHeader("set-cookie", [
        "a=1; Domain=localhost; Path=/",
        "b=2; domain = x ;HttpOnly",
        "warren-preview=stolen",
      ]);
      response.end(Buffer.alloc(20_000_000, 7));
    });
    const headers = { host: rig.host(), "x-api-key": KEY };
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const upload = Buffer.alloc(30_000_000, 3);
    const sockets = new Set<unknown>();
    for (const chunked of [true, false]) {
      const request = httpRequest({
        port: rig.served.port,
        agent,
        method: "POST",
        path: "/",
        headers: { ...headers, ...(chunked ? {} : { "content-length": upload.length }) },
      });
      request.write(upload);
      request.end();
      const [response] = await once(request, "response");
      sockets.add(response.socket);
      let bytes = 0;
      for await (const chunk of response) bytes += chunk.length;
      expect(bytes).toBe(20_000_000);
      expect(response.headers["x-digest"]).toBe(createHash("sha256").update(upload).digest("hex"));
      expect(response.headers["set-cookie"]).toEqual(["a=1; Path=/", "b=2;HttpOnly"]);
      expect(rig.asked.at(-1)?.headers["content-length"]).toBe(chunked ? undefined : "30000000");
    }
    expect(sockets.size).toBe(1);
    agent.destroy();

    const events = httpRequest({ port: rig.served.port, path: "/events", headers }).end();
    const [stream] = await once(events, "response");
    const chunks = stream[Symbol.asyncIterator]();
    expect(String((await chunks.next()).value)).toBe("data: 1\n\n");
    finish();
    expect(String((await chunks.next()).value)).toBe("data: 2\n\n");
  });

  it("may be a WebSocket, by name and by path", async () => {
    await using rig = await previewRig(() => {});
    const sockets = new WebSocketServer({
      server: rig.inside,
      handleProtocols: (offered) => [...offered].join(" "),
    });
    sockets.on("connection", (socket, request) => {
      socket.send(
        JSON.stringify([
          request.url,
          request.headers["sec-websocket-protocol"],
          request.headers["x-api-key"] ?? null,
        ]),
      );
      socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
    });
    const { token } = await rig.link();
    for (const [url, host, seen] of [
      [`/hmr?warren_token=${token}&v=1`, rig.host(), "/hmr?v=1"],
      [`${path("/hmr")}?warren_token=${token}`, `localhost:${rig.served.port}`, "/hmr"],
    ] as const) {
      const socket = new WebSocket(
        `ws://127.0.0.1:${rig.served.port}${url}`,
        ["app.v1", `warren-key.${Buffer.from(KEY).toString("base64url")}`],
        { headers: { host } },
      );
      const [hello] = await once(socket, "message");
      expect(JSON.parse(String(hello))).toEqual([seen, "app.v1", null]);
      const large = Buffer.alloc(3_000_000, 5);
      socket.send(large);
      const [echo, isBinary] = await once(socket, "message");
      expect(isBinary && large.equals(echo as Buffer)).toBe(true);
      socket.close(4001, "done");
      expect((await once(socket, "close"))[0]).toBe(4001);
    }
    // What the server inside answers instead is told as it is.
    sockets.options.verifyClient = (_info: unknown, decide: (ok: boolean, code: number) => void) =>
      decide(false, 418);
    const refused = new WebSocket(`ws://127.0.0.1:${rig.served.port}/`, {
      headers: { host: rig.host(), "x-api-key": KEY },
    });
    const [, response] = await once(refused, "unexpected-response");
    expect(response.statusCode).toBe(418);
    refused.on("error", () => {});
    refused.terminate();
  });

  it("works over TLS and HTTP/2, with a cookie that no other name can set", async () => {
    using authority = createAuthority();
    const identity = authority.issue("server", "IP:127.0.0.1");
    await using rig = await previewRig(
      (request, response) => response.end(request.headers["x-forwarded-proto"]),
      {},
      { tls: identity, http2: true },
    );
    const session = connectHttp2(`https://127.0.0.1:${rig.served.port}`, { rejectUnauthorized: false });
    const ask = async (headers: Record<string, string>) => {
      const stream = session.request({ ":authority": rig.host(), ...headers });
      stream.end(headers[":method"] === "POST" ? "{}" : undefined);
      const [answer] = await once(stream, "response");
      let body = "";
      for await (const chunk of stream) body += chunk;
      return { answer, body };
    };
    const made = await ask({
      ":authority": `localhost:${rig.served.port}`,
      ":method": "POST",
      ":path": `/api/v1/sandboxes/box/ports/${PORT}/preview`,
      "x-api-key": KEY,
    });
    const { token } = JSON.parse(made.body);
    const url = `/?warren_token=${token}`;
    const { answer } = await ask({ ":path": url, accept: "text/html" });
    expect(answer[":status"]).toBe(302);
    expect(answer["set-cookie"]?.[0]).toMatch(/^__Host-warren-preview=.*; Path=\/; .*; Secure$/);
    const second = await ask({
      ":path": "/",
      ":method": "POST",
      cookie: String(answer["set-cookie"]?.[0]).split(";")[0] ?? "",
    });
    expect([second.answer[":status"], second.body]).toEqual([200, "https"]);
    session.destroy();
  });

  it("fails as a page for people and as JSON for programs, and breaks off what breaks off inside", async () => {
    await using rig = await previewRig((request, response) => {
      if (request.url === "/half") {
        response.writeHead(200, { "content-length": 100 });
        response.write("half");
        setImmediate(() => request.socket.destroy());
      } else request.socket.end("SSH-2.0-hello\r\n");
    });
    const key = { "x-api-key": KEY };
    expect(await rig.ask({ host: rig.host(4000), headers: key })).toMatchObject({
      status: 502,
      body: expect.stringContaining('"code":"port_unreachable"'),
    });
    const shown = await rig.ask({ host: rig.host(4000), headers: { ...key, ...page } });
    expect(shown.headers["content-type"]).toBe("text/html; charset=utf-8");
    expect(shown.headers["content-security-policy"]).toContain("default-src 'none'");
    expect(shown.body).toContain("<h1>port 4000: nothing listens there</h1>");
    expect(await rig.ask({ headers: key })).toMatchObject({
      status: 502,
      body: expect.stringContaining("did not answer as an HTTP server"),
    });
    expect(await rig.ask({ host: rig.host(PORT, "nobody"), headers: key })).toMatchObject({ status: 404 });
    expect(await rig.ask({ host: rig.host(PORT, "stopped"), headers: key })).toMatchObject({
      status: 409,
      body: expect.stringContaining('"code":"sandbox_wrong_state"'),
    });
    await expect(rig.ask({ path: "/half", headers: key })).rejects.toMatchObject({ code: "ECONNRESET" });
    // The next one is answered all the same.
    expect(await rig.ask({ host: rig.host(4000), headers: key })).toMatchObject({ status: 502 });
    expect(rig.log).not.toContain("unexpected failure");
  });

  it("is raw where a client of the API wants that", async () => {
    await using rig = await previewRig((_request, response) => response.end("inside"));
    const client = createNodeClient({ url: rig.served.url, apiKey: KEY });
    const socket = await client.dial("box", PORT);
    socket.end("GET /raw HTTP/1.0\r\n\r\n");
    let text = "";
    for await (const chunk of socket) text += chunk;
    expect(text).toMatch(/^HTTP\/1\.1 200 OK\r\n.*inside$/s);
    await expect(client.dial("box", 4000)).rejects.toMatchObject({ code: "port_unreachable" });
    // So it is for a server in front of another process's engine.
    const front = createServer(client, {
      log: silentLogger,
      ports: { key: Buffer.alloc(32, 7), dial: (id, port) => client.dial(id, port) },
    });
    onTestFinished(() => front.close());
    const { url } = await front.listenTcp({ host: "127.0.0.1", port: 0 });
    const { token } = await rig.link();
    const through = await fetch(`${url}${path("/front")}`, { headers: { "x-warren-token": token } });
    expect(await through.text()).toBe("inside");
    const stranger = createNodeClient({ url: rig.served.url, apiKey: "another" });
    await expect(stranger.dial("box", PORT)).rejects.toMatchObject({ code: "unauthenticated" });
  });
});
