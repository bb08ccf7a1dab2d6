import { execFile } from "node:child_process";
import { once } from "node:events";
import { constants } from "node:http2";
import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as connectTls } from "node:tls";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createAuthority } from "../../server/certificates.ts";
import {
  ask,
  askPlain,
  openDirect,
  openHttp2,
  openRig,
  PLACEHOLDER,
  type Rig,
  say,
  secure,
  tunnel,
  VALUE,
} from "./secrets-rig.ts";

const STARS = "*".repeat(VALUE.length);
const base64 = (value: string) => Buffer.from(value).toString("base64");

describe.each([false, true])("a request to the host of a secret (streams: %s)", (asStreams) => {
  let rig: Rig;
  beforeAll(async () => {
    rig = await openRig({ asStreams });
  });
  afterAll(() => rig[Symbol.asyncDispose]());

  it("has the header set, whatever the sandbox put there", async () => {
    const answer = await ask(rig, "api.test", { headers: { authorization: "Bearer mine" } });
    expect(answer.status).toBe(200);
    expect(rig.seen.at(-1)).toContain(`"authorization":"Bearer ${VALUE}"`);
    expect(rig.seen.at(-1)).not.toContain("mine");
    expect(answer.headers["x-echo"]).toBe(`Bearer ${STARS}`);
  });

  it("has it over HTTP/2, and the placeholder replaced in other headers", async () => {
    const session = await openHttp2(rig, "api.test");
    const stream = session.request({ ":path": "/x", ":method": "POST", "x-mine": `a ${PLACEHOLDER} b` });
    stream.end("hello");
    const [headers] = await once(stream, "response");
    expect(headers).toMatchObject({ ":status": 200, "x-echo": `Bearer ${STARS}` });
    expect(await text(stream)).toBe("hello");
    expect(rig.seen.at(-1)).toContain(`"x-mine":"a ${VALUE} b"`);
    session.close();
  });

  it("is one of several on a connection", async () => {
    const host = `Host: api.test:${rig.port}`;
    const all = await say(
      await secure(rig, "api.test"),
      `GET /1 HTTP/1.1\r\n${host}\r\n\r\nGET /2 HTTP/1.1\r\n${host}\r\nConnection: close\r\n\r\n`,
    );
    expect(all.match(/HTTP\/1.1 200/g)).toHaveLength(2);
    expect(rig.seen.slice(-2).every((one) => one.includes(VALUE))).toBe(true);
  });

  it("may have a large body, as may its answer", async () => {
    const body = "0123456789abcdef".repeat(256 * 1024); // 4 MiB, many windows of HTTP/2
    expect((await ask(rig, "api.test", { body })).body).toBe(body);
    const session = await openHttp2(rig, "api.test");
    const stream = session.request({ ":method": "POST" });
    stream.end(body);
    expect((await text(stream)) === body).toBe(true);
    session.close();
  });
});

describe("secrets", () => {
  let rig: Rig;
  beforeAll(async () => {
    rig = await openRig();
  });
  afterAll(() => rig[Symbol.asyncDispose]());
  const denied = () => rig.events.filter(({ allowed }) => !allowed).at(-1)?.reason;

  describe("of another host", () => {
    it("leaves TLS of other hosts alone", async () => {
      const socket = await secure(rig, "api.test");
      expect(socket.getPeerCertificate().issuer.O).toBe("Warren");
      socket.destroy();
      await expect(secure(rig, "other.test")).rejects.toThrow(/self-signed|verify/);
    });

    it("refuses the placeholder in a header, in basic authentication and in a URL", async () => {
      const before = rig.seen.length;
      const url = `http://other.test:${rig.plainPort}/`;
      for (const [where, headers] of [
        [url, { "x-key": `k ${PLACEHOLDER}` }],
        [url, { authorization: `Basic ${base64(`me:${PLACEHOLDER}`)}` }],
        [`${url}?key=${PLACEHOLDER}`, {}],
      ] as const) {
        const answer = await askPlain(rig, where, headers);
        expect(answer.status).toBe(403);
        expect(answer.body).toContain("placeholder of the secret TOKEN");
        expect(denied()).toContain("placeholder of the secret TOKEN");
      }
      expect(rig.seen.length).toBe(before);
      expect((await askPlain(rig, url, { "x-key": "k" })).status).toBe(200);
    });
  });

  it("are not sent in clear, unless they are bound so", async () => {
    const before = rig.seen.length;
    for (const host of ["api.test", "API.test."]) {
      const answer = await askPlain(rig, `http://${host}:${rig.plainPort}/`);
      expect([answer.status, answer.body]).toEqual([403, expect.stringContaining("over https only")]);
    }
    // HTTP on the port of TLS, through a tunnel.
    const socket = await tunnel(rig, "api.test");
    socket.write(`GET / HTTP/1.1\r\nHost: api.test:${rig.port}\r\nConnection: close\r\n\r\n`);
    expect(await text(socket)).toMatch(/^HTTP\/1.1 403 /);
    // And what is neither.
    const other = await tunnel(rig, "api.test");
    other.write(Buffer.from([0, 1, 2, 3]));
    await once(other, "close");
    expect(denied()).toContain("over TLS only");
    expect(rig.seen.length).toBe(before);

    await using open = await openRig({ secrets: () => [] });
    open.egress.replaceSecrets([open.secret({ hosts: [`http://api.test:${open.plainPort}`] })]);
    const answer = await askPlain(open, `http://api.test:${open.plainPort}/`);
    expect(answer).toMatchObject({ status: 200, body: `you said Bearer ${STARS}` });
  });

  it("go to no other server than their own", async () => {
    const before = rig.seen.length;
    const own = `Host: api.test:${rig.port}\r\n`;
    // A server name that is not the tunnel's, either way round.
    await expect(secure(rig, "api.test", { servername: "other.test" })).rejects.toThrow();
    await expect(secure(rig, "other.test", { servername: "api.test" })).rejects.toThrow();
    expect(denied()).toContain("TLS server name");
    const tries = [
      `GET / HTTP/1.1\r\nHost: other.test:${rig.port}\r\n\r\n`,
      `GET / HTTP/1.1\r\nHost: api.test:1\r\n\r\n`,
      `GET / HTTP/1.1\r\n${own}Host: other.test\r\n\r\n`,
      `GET / HTTP/1.1\r\n\r\n`,
      `GET https://other.test:${rig.port}/ HTTP/1.1\r\n${own}\r\n`,
      `GET http://other.test:${rig.plainPort}/ HTTP/1.1\r\nHost: other.test:${rig.plainPort}\r\n\r\n`,
      `CONNECT other.test:${rig.port} HTTP/1.1\r\nHost: other.test:${rig.port}\r\n\r\n`,
      `GET / HTTP/1.1\r\n${own}Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n`,
      `POST / HTTP/1.1\r\n${own}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n${own}\r\n`,
      `POST / HTTP/1.1\r\n${own}Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde`,
      `GET / HTTP/1.1\r\n${own}X: a\r\n folded\r\n\r\n`,
      `GET / HTTP/1.1\r\n${own}Transfer-Encoding : chunked\r\n\r\n`,
    ];
    for (const one of tries) {
      const socket = await secure(rig, "api.test");
      socket.end(one);
      const answer = await text(socket);
      expect(answer, one).toMatch(/^HTTP\/1.1 4\d\d /);
    }
    expect(rig.seen.slice(before)).toEqual([]);
  });

  it("go to no other server over HTTP/2", async () => {
    const before = rig.seen.length;
    const session = await openHttp2(rig, "api.test");
    for (const [headers, outcome] of [
      [{ ":authority": `other.test:${rig.port}` }, 421],
      [{ ":authority": "api.test:1" }, 421],
      [{ ":authority": `api.test:${rig.port}`, host: "other.test" }, 421],
      [{ ":scheme": "http" }, 400],
      [{ ":path": `/?${PLACEHOLDER}` }, 403],
      // The library itself takes these for broken.
      [{ ":path": "https://other.test/" }, "reset"],
      [{ ":method": "CONNECT", ":authority": `other.test:${rig.port}` }, 400],
    ] as const) {
      const stream = session.request(headers);
      const answer = await Promise.race([
        once(stream, "response").then(([head]) => head[":status"]),
        once(stream, "close").then(() => "reset"),
      ]).catch(() => "reset");
      expect(answer, JSON.stringify(headers)).toBe(outcome);
      stream.on("error", () => {}).destroy();
    }
    session.destroy();
    expect(rig.seen.slice(before)).toEqual([]);
  });

  it("are found by who is captured, or comes by SOCKS", async () => {
    await using direct = await openDirect(rig, "api.test");
    const plain = connectTls({ port: direct.port, host: "127.0.0.1", servername: "api.test", ca: rig.ca });
    await once(plain, "secureConnect");
    expect((await ask(rig, "api.test", { socket: plain })).status).toBe(200);
    expect(rig.seen.at(-1)).toContain(VALUE);
    const socks = connect(rig.proxyPort, "127.0.0.1");
    socks.write(
      Buffer.from([5, 1, 0, 5, 1, 0, 3, 8, ...Buffer.from("api.test"), rig.port >> 8, rig.port & 255]),
    );
    for (let got = 0; got < 12; ) got += ((await once(socks, "data")) as [Buffer])[0].length;
    const over = connectTls({ socket: socks, servername: "api.test", ca: rig.ca });
    await once(over, "secureConnect");
    expect((await ask(rig, "api.test", { socket: over, path: "/socks" })).status).toBe(200);
    expect(rig.seen.at(-1)).toContain("/socks");
    expect(rig.seen.at(-1)).toContain(VALUE);
  });

  it("stay in only what is theirs when they change while it runs", async () => {
    await using changing = await openRig();
    const socket = await secure(changing, "api.test");
    const get = (connection: string) =>
      `GET / HTTP/1.1\r\nHost: api.test:${changing.port}\r\nConnection: ${connection}\r\n\r\n`;
    socket.write(get("keep-alive"));
    await once(socket, "data");
    expect(changing.seen.at(-1)).toContain(VALUE);
    const value = "another-value-of-it";
    changing.egress.replaceSecrets([changing.secret({ value })]);
    socket.write(get("keep-alive"));
    await once(socket, "data");
    expect(changing.seen.at(-1)).toContain(value);
    changing.egress.replaceSecrets([]);
    await once(socket, "close");
    const { value: _lost, ...lost } = changing.secret();
    changing.egress.replaceSecrets([lost]);
    const answer = await ask(changing, "api.test");
    expect([answer.status, answer.body]).toEqual([502, expect.stringContaining("is lost")]);
  });

  it("can be basic authentication, the sandbox's own too", async () => {
    await using basic = await openRig();
    const { header: _none, ...bare } = basic.secret();
    basic.egress.replaceSecrets([{ ...bare, basic: { username: "bot" } }]);
    const answer = await ask(basic, "api.test", { body: `${base64(`bot:${VALUE}`)} ${VALUE}` });
    expect(basic.seen.at(-1)).toContain(`"authorization":"Basic ${base64(`bot:${VALUE}`)}"`);
    expect(answer.headers["x-echo"]).not.toContain(base64(`bot:${VALUE}`).slice(8, -4));
    expect(answer.body).not.toContain(base64(`bot:${VALUE}`).slice(8, -4));
    expect(answer.body).toContain(` ${STARS}`);
    basic.egress.replaceSecrets([bare]);
    await ask(basic, "api.test", { headers: { authorization: `Basic ${base64(`me:${PLACEHOLDER}`)}` } });
    expect(basic.seen.at(-1)).toContain(`"authorization":"Basic ${base64(`me:${VALUE}`)}"`);
    await ask(basic, "api.test");
    expect(basic.seen.at(-1)).not.toContain("authorization");
  });
});

describe("a server that gets a secret", () => {
  it.each([
    ["is signed by nobody who is trusted", { isDistrusting: true }, "UNABLE_TO_VERIFY_LEAF_SIGNATURE"],
    ["is another", { subjects: "DNS:another.test" }, "ERR_TLS_CERT_ALTNAME_INVALID"],
  ])("gets none when it %s", async (_what, options, code) => {
    await using rig = await openRig(options);
    const answer = await ask(rig, "api.test");
    expect([answer.status, answer.body]).toEqual([502, expect.stringContaining(code)]);
    expect(rig.events.at(-1)).toMatchObject({ allowed: false, reason: expect.stringContaining(code) });
    expect(rig.seen).toEqual([]);
  });

  it("can be one without a name", async () => {
    await using rig = await openRig({ secrets: () => [] });
    rig.egress.replaceSecrets([rig.secret({ hosts: [`127.0.0.1:${rig.port}`] })]);
    expect((await ask(rig, "127.0.0.1")).status).toBe(200);
    expect(rig.seen.at(-1)).toContain(VALUE);
  });

  it("is told of by a decision when the program does not trust the engine's authority", async () => {
    await using rig = await openRig();
    await using direct = await openDirect(rig, "api.test");
    using strange = createAuthority();
    const { error } = await promisify(execFile)("openssl", [
      ...["s_client", "-connect", `127.0.0.1:${direct.port}`],
      ...["-servername", "api.test", "-verify_return_error", "-CAfile", strange.caFile],
    ]).then(
      () => ({ error: undefined }),
      (error: Error) => ({ error }),
    );
    expect(error?.message).toContain("certificate verify failed");
    while (!rig.events.some(({ reason }) => reason.includes("its own list"))) await sleep(1);
    expect(rig.seen).toEqual([]);
  });

  it("is one connection's alone, however many begin at once, give up, or don't trust the engine", async () => {
    await using rig = await openRig();
    using strange = createAuthority();
    for (let round = 0; round < 3; round++) {
      const clients = Array.from({ length: 12 }, async (_, i) => {
        if (i % 3 === 0) return (await tunnel(rig, "api.test")).end("\x16\x03\x01\x02\x00").destroy();
        if (i % 3 === 1) return await secure(rig, "api.test", { ca: strange.ca }).catch(({ code }) => code);
        const said = `${round} ${i}`;
        return (await ask(rig, "api.test", { body: said })).body === said ? "its own" : "another's";
      });
      const outcomes = await Promise.all(clients);
      expect(outcomes.filter((_, i) => i % 3 === 1)).toEqual(
        Array(4).fill("UNABLE_TO_VERIFY_LEAF_SIGNATURE"),
      );
      expect(outcomes.filter((_, i) => i % 3 === 2)).toEqual(Array(4).fill("its own"));
    }
  });

  it("has what it echoes covered, in a stream, in gzip, in a trailer and after an upgrade", async () => {
    await using rig = await openRig();
    rig.server.removeAllListeners("request");
    rig.server.on("request", (request, response) => {
      const authorization = String(request.headers.authorization);
      expect(request.headers["accept-encoding"]).toBe("identity");
      if (request.url === "/gzip") {
        response.setHeader("content-encoding", "gzip");
        response.end(gzipSync(`so ${authorization} it is`));
      } else if (request.url === "/zstd") {
        response.setHeader("content-encoding", "zstd");
        response.end("?");
      } else {
        response.writeHead(200, { trailer: "x-after" });
        response.write(`${authorization.slice(0, 14)}`);
        setTimeout(() => {
          response.addTrailers({ "x-after": authorization });
          response.end(authorization.slice(14));
        }, 20);
      }
    });
    const headers = { "accept-encoding": "gzip, br" };
    const zipped = await ask(rig, "api.test", { path: "/gzip", headers });
    expect(zipped.body).toBe(`so Bearer ${STARS} it is`);
    expect(zipped.headers["content-encoding"]).toBeUndefined();
    expect(await ask(rig, "api.test", { path: "/zstd", headers })).toMatchObject({ status: 502 });
    const all = await say(
      await secure(rig, "api.test"),
      `GET / HTTP/1.1\r\nHost: api.test:${rig.port}\r\nConnection: close\r\n\r\n`,
    );
    expect(all).toContain("Bearer ");
    expect(all).toContain(`x-after: Bearer ${STARS}`);
    expect(all).not.toContain(VALUE.slice(0, 4));
    expect(all).not.toContain(VALUE.slice(-4));
    const session = await openHttp2(rig, "api.test");
    const stream = session.request({ ":path": "/" });
    const trailers = once(stream, "trailers");
    expect(await text(stream)).toBe(`Bearer ${STARS}`);
    expect((await trailers)[0]["x-after"]).toBe(`Bearer ${STARS}`);
    session.close();

    rig.server.on("upgrade", (request, socket) => {
      expect(request.headers["sec-websocket-extensions"]).toBeUndefined();
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX: ${request.headers.authorization}\r\n\r\n`,
      );
      socket.pipe(socket);
    });
    const socket = await secure(rig, "api.test");
    socket.write(
      `GET /ws HTTP/1.1\r\nHost: api.test:${rig.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n`,
    );
    let got = "";
    socket.on("data", (chunk) => {
      got += String(chunk);
    });
    while (!got.includes("\r\n\r\n")) await sleep(1);
    expect(got).toContain(`X: Bearer ${STARS}`);
    for (const part of ["ping s", VALUE.slice(0, 5), VALUE.slice(5), " end"]) {
      socket.write(part);
      await sleep(5);
    }
    while (!got.includes(" end")) await sleep(1);
    expect(got).toContain(`ping s${STARS} end`);
    socket.destroy();
  });
});

describe("HTTP through the interception", () => {
  it("asks the server whether it wants a body, and passes trailers of requests", async () => {
    await using rig = await openRig();
    rig.server.removeAllListeners("request");
    rig.server.on("checkContinue", (request, response) => {
      if (request.url === "/no") return void response.writeHead(417).end();
      response.writeContinue();
      request.resume().on("end", () => response.end(JSON.stringify(request.trailers)));
    });
    const head = (path: string) =>
      `POST ${path} HTTP/1.1\r\nHost: api.test:${rig.port}\r\nConnection: close\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n`;
    expect(await say(await secure(rig, "api.test"), head("/no"))).toMatch(/^HTTP\/1.1 417/);
    const socket = await secure(rig, "api.test");
    socket.write(head("/yes"));
    expect(String((await once(socket, "data"))[0])).toMatch(/^HTTP\/1.1 100 /);
    expect(await say(socket, "3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n")).toContain('{"x-sum":"42"}');
  });

  it("carries streams of both directions with trailers, as gRPC has them, and resets", async () => {
    await using rig = await openRig();
    rig.server.removeAllListeners("stream");
    rig.server.on("stream", (stream, headers) => {
      stream.on("error", () => {});
      if (headers[":path"] === "/reset") return stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM);
      if (headers[":path"] === "/trailers-only") {
        return stream.respond({ ":status": 200, "grpc-status": "5" }, { endStream: true });
      }
      expect(headers.te).toBe("trailers");
      stream.respond({ ":status": 200 }, { waitForTrailers: true });
      stream.on("data", (chunk) => stream.write(`got ${chunk}`));
      stream.once("trailers", ({ "x-sum": sum }) =>
        stream.once("wantTrailers", () => stream.sendTrailers({ sum })),
      );
      stream.on("end", () => stream.end());
    });
    const session = await openHttp2(rig, "api.test");
    const stream = session.request(
      { ":method": "POST", ":path": "/stream", te: "trailers" },
      { endStream: false, waitForTrailers: true },
    );
    stream.once("wantTrailers", () => stream.sendTrailers({ "x-sum": "7" }));
    for (const word of ["one", "two"]) {
      stream.write(word);
      expect(String((await once(stream, "data"))[0])).toBe(`got ${word}`);
    }
    const trailers = once(stream, "trailers");
    stream.end();
    expect((await trailers)[0]).toMatchObject({ sum: "7" });
    const only = session.request({ ":path": "/trailers-only" });
    expect((await once(only, "response"))[0]).toMatchObject({ "grpc-status": "5" });
    const reset = session.request({ ":path": "/reset" });
    reset.on("error", () => {});
    await new Promise((resolve) => reset.once("close", resolve));
    expect(reset.rstCode).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM);
    session.close();
  });

  it.each(["http/1.1", "h2"])("keeps no more of an endless body than some windows: %s", async (version) => {
    await using rig = await openRig();
    rig.server.removeAllListeners("request");
    let sent = 0;
    const block = Buffer.alloc(65_536, "x");
    rig.server.on("request", (_request, response) => {
      const more = () => {
        while (!response.destroyed && response.write(block)) sent += block.length;
        sent += block.length;
      };
      response.on("drain", more);
      more();
    });
    const slow = version === "h2" ? undefined : await secure(rig, "api.test");
    const session = version === "h2" ? await openHttp2(rig, "api.test") : undefined;
    const stream = session?.request({ ":path": "/" });
    slow?.write(`GET / HTTP/1.1\r\nHost: api.test:${rig.port}\r\n\r\n`);
    if (stream) await once(stream, "response");
    else await once(slow as NonNullable<typeof slow>, "readable");
    let before = -1;
    // Until nothing moves any more: all buffers on the way are full.
    for (let still = 0; still < 10; still = sent === before ? still + 1 : 0) {
      before = sent;
      await sleep(20);
    }
    expect(sent).toBeLessThan(64 * 1024 * 1024);
    session?.destroy();
    slow?.destroy();
  });
});
