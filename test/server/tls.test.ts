import { execFile } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { type ClientHttp2Session, connect as connectHttp2, type OutgoingHttpHeaders } from "node:http2";
import { request as requestHttps } from "node:https";
import { connect as connectTcp } from "node:net";
import { join } from "node:path";
import { connect as connectTls } from "node:tls";
import { promisify } from "node:util";
import { afterAll, describe, expect, it } from "vitest";
import { createNodeClient } from "../../src/client/node/index.ts";
import { PREFIX } from "../../src/server/route.ts";
import { createAuthority } from "./certificates.ts";
import { type Served, serve } from "./serve.ts";

const authority = createAuthority();
afterAll(() => authority[Symbol.dispose]());
const identity = authority.issue("server", "IP:127.0.0.1,DNS:localhost");
const run = promisify(execFile);

const clientOf = (served: Served, apiKey?: string) =>
  createNodeClient({ url: served.url, caFile: authority.caFile, ...(apiKey ? { apiKey } : {}) });

describe.each([
  ["HTTP/1.1", false],
  ["HTTP/1.1 beside HTTP/2", true],
])("TLS with %s", (_name, http2) => {
  const tls = { tls: identity, http2 };

  it("serves files, commands and WebSockets to a client that knows the CA", async () => {
    await using served = await serve({}, tls);
    expect(served.url).toMatch(/^https:\/\/127\.0\.0\.1:\d+$/);
    const client = clientOf(served);
    expect(await client.list()).toHaveLength(1);
    const body = Buffer.alloc(3_000_000, "abc");
    await client.files.write("box", "/file", body);
    expect(body.equals(served.api.stored.get("/file") ?? new Uint8Array())).toBe(true);
    await using session = await client.execStream("box", { cmd: ["cat"], stdin: true });
    await session.write(Buffer.from("through wss"));
    await session.end();
    let text = "";
    for await (const { data } of session.output) text += Buffer.from(data).toString();
    expect(text).toBe("through wss");
  });

  it("is refused by a client that does not know the CA, and by one that asked for another name", async () => {
    await using served = await serve({}, tls);
    const stranger = createNodeClient({ url: served.url, caFile: "" });
    for (const call of [stranger.list(), stranger.execStream("box", { cmd: ["true"] })]) {
      await expect(call).rejects.toMatchObject({
        code: "engine_unavailable",
        message: expect.stringContaining("certificate"),
        hint: expect.stringContaining("--ca-file"),
      });
    }
    expect(served.api.running.size).toBe(0);
    const elsewhere = authority.issue("elsewhere", "DNS:elsewhere.example");
    await using other = await serve({}, { ...tls, tls: elsewhere });
    await expect(clientOf(other).list()).rejects.toMatchObject({
      message: expect.stringContaining("certificate"),
    });
  });

  it("asks for keys over TLS too", async () => {
    await using served = await serve({ apiKeys: ["secret"] }, tls);
    await expect(clientOf(served).list()).rejects.toMatchObject({ code: "unauthenticated" });
    expect(await clientOf(served, "secret").list()).toHaveLength(1);
  });

  it("takes no TLS below 1.2 and no plain HTTP, and goes on", async () => {
    await using served = await serve({}, tls);
    const old = connectTls({
      port: served.port,
      host: "127.0.0.1",
      ca: authority.ca,
      minVersion: "TLSv1.1",
      maxVersion: "TLSv1.1",
      // OpenSSL 3 would not even offer it otherwise.
      ciphers: "DEFAULT@SECLEVEL=0",
    });
    const [error] = (await once(old, "error")) as [NodeJS.ErrnoException];
    expect(error.code).toMatch(/PROTOCOL_VERSION/);
    const plain = connectTcp(served.port, "127.0.0.1");
    plain.on("error", () => undefined);
    plain.write(`GET ${PREFIX}/health HTTP/1.1\r\nHost: localhost\r\n\r\n`);
    let answer = "";
    plain.on("data", (chunk: Buffer) => {
      answer += chunk.toString("latin1");
    });
    await once(plain, "close");
    expect(answer).not.toContain("HTTP/1.1 200");
    expect(await clientOf(served).list()).toHaveLength(1);
  });

  it("takes a new certificate for new connections", async () => {
    await using served = await serve({}, tls);
    const fingerprint = async () => {
      const socket = connectTls({ port: served.port, host: "127.0.0.1", ca: authority.ca });
      await once(socket, "secureConnect");
      const { subject } = socket.getPeerCertificate();
      socket.destroy();
      return subject.CN;
    };
    expect(await fingerprint()).toBe("server");
    served.tcp.replaceIdentity(authority.issue("renewed", "IP:127.0.0.1"));
    expect(await fingerprint()).toBe("renewed");
    expect(() => served.tcp.replaceIdentity({ cert: identity.cert, key: "none" })).toThrow(/can't be used/);
    expect(await fingerprint()).toBe("renewed");
  });

  it("closes with handshakes and idle connections open", async () => {
    const served = await serve({}, tls);
    const silent = connectTcp(served.port, "127.0.0.1");
    silent.on("error", () => undefined);
    await once(silent, "connect");
    const idle = connectTls({ port: served.port, host: "127.0.0.1", ca: authority.ca });
    idle.on("error", () => undefined);
    await once(idle, "secureConnect");
    // By an end or by a reset.
    const gone = Promise.all(
      [silent, idle].map((socket) => new Promise((resolve) => socket.once("close", resolve))),
    );
    silent.resume();
    idle.resume();
    await served[Symbol.asyncDispose]();
    await gone;
  });

  it("checks Host and Origin without keys", async () => {
    await using served = await serve({}, tls);
    const status = (headers: OutgoingHttpHeaders) =>
      new Promise<number | undefined>((resolve, reject) => {
        requestHttps(
          {
            port: served.port,
            host: "127.0.0.1",
            servername: "localhost",
            path: `${PREFIX}/sandboxes`,
            ca: authority.ca,
            headers,
          },
          (response) => resolve(response.resume().statusCode),
        )
          .on("error", reject)
          .end();
      });
    const host = `127.0.0.1:${served.port}`;
    expect(await status({ host })).toBe(200);
    expect(await status({ host, origin: `https://${host}` })).toBe(200);
    expect(await status({ host, origin: `http://${host}` })).toBe(403);
    expect(await status({ host: "evil.example" })).toBe(403);
  });
});

it("needs keys beyond loopback, with TLS as without", async () => {
  await using served = await serve();
  await expect(served.server.listenTcp({ host: "0.0.0.0", port: 0, tls: identity })).rejects.toMatchObject({
    code: "forbidden",
  });
  await expect(served.server.listenTcp({ host: "127.0.0.1", port: 0, http2: true })).rejects.toMatchObject({
    code: "invalid_request",
  });
});

it("speaks no HTTP/2 unless told to", async () => {
  await using served = await serve({}, { tls: identity });
  const socket = connectTls({
    port: served.port,
    host: "127.0.0.1",
    ca: authority.ca,
    ALPNProtocols: ["h2", "http/1.1"],
  });
  await once(socket, "secureConnect");
  expect(socket.alpnProtocol).toBe("http/1.1");
  socket.destroy();
});

interface Answer {
  status: number;
  headers: Record<string, unknown>;
  body: Buffer;
}

async function ask(
  session: ClientHttp2Session,
  headers: OutgoingHttpHeaders,
  body?: string | Buffer,
): Promise<Answer> {
  const stream = session.request(headers, { endStream: body === undefined });
  if (body !== undefined) stream.end(body);
  const [answer] = (await once(stream, "response")) as [Record<string, unknown>];
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return { status: Number(answer[":status"]), headers: answer, body: Buffer.concat(chunks) };
}

describe("HTTP/2", () => {
  async function open(options: Parameters<typeof serve>[0] = {}) {
    const served = await serve(options, { tls: identity, http2: true });
    const session = connectHttp2(served.url, { ca: authority.ca });
    session.on("error", () => undefined);
    await once(session, "connect");
    return {
      served,
      session,
      async [Symbol.asyncDispose]() {
        session.destroy();
        await served[Symbol.asyncDispose]();
      },
    };
  }
  const fileAt = (path: string) => `${PREFIX}/sandboxes/box/files?path=${path}`;

  it("answers JSON routes and refusals", async () => {
    await using talk = await open();
    const { session } = talk;
    const list = await ask(session, { ":path": `${PREFIX}/sandboxes` });
    expect([list.status, JSON.parse(list.body.toString())]).toEqual([
      200,
      [expect.objectContaining({ id: "box" })],
    ]);
    const done = await ask(
      session,
      { ":path": `${PREFIX}/sandboxes/box/exec`, ":method": "POST" },
      '{"cmd":["echo","hi"]}',
    );
    expect(JSON.parse(done.body.toString())).toMatchObject({ stdout: "hi\n", exit_code: 0 });
    expect((await ask(session, { ":path": "/nowhere" })).status).toBe(404);
    expect((await ask(session, { ":path": `${PREFIX}/sandboxes`, ":method": "PUT" })).status).toBe(405);
    expect((await ask(session, { ":path": `${PREFIX}/sandboxes/box`, ":method": "DELETE" })).status).toBe(
      204,
    );
    expect(
      (await ask(session, { ":path": `${PREFIX}/sandboxes`, ":authority": "evil.example" })).status,
    ).toBe(403);
    const head = await ask(session, { ":path": `${PREFIX}/sandboxes`, ":method": "HEAD" });
    expect([head.status, head.body.length]).toEqual([200, 0]);
  });

  it("takes keys", async () => {
    await using talk = await open({ apiKeys: ["secret"] });
    const path = { ":path": `${PREFIX}/sandboxes` };
    expect((await ask(talk.session, path)).status).toBe(401);
    expect((await ask(talk.session, { ...path, "x-api-key": "secret" })).status).toBe(200);
    expect((await ask(talk.session, { ...path, authorization: "Bearer secret" })).status).toBe(200);
  });

  it("carries large files both ways", async () => {
    await using talk = await open();
    const bytes = Buffer.from(Array.from({ length: 8_000_000 }, (_, index) => index % 251));
    const put = await ask(talk.session, { ":path": fileAt("/big"), ":method": "PUT" }, bytes);
    expect([put.status, JSON.parse(put.body.toString())]).toEqual([
      200,
      { success: true, bytes: bytes.length },
    ]);
    const get = await ask(talk.session, { ":path": fileAt("/big") });
    expect(get.headers["content-length"]).toBe(String(bytes.length));
    expect(get.body.equals(bytes)).toBe(true);
  });

  it("refuses a body that is too large while it is being sent, and the connection goes on", async () => {
    await using talk = await open({ maxJsonBytes: 1000, maxUploadBytes: 100_000 });
    const { session } = talk;
    const large = await ask(session, { ":path": fileAt("/f"), ":method": "PUT" }, Buffer.alloc(2_000_000));
    expect([large.status, JSON.parse(large.body.toString()).code]).toEqual([413, "too_large"]);
    expect((await ask(session, { ":path": `${PREFIX}/sandboxes` })).status).toBe(200);
    expect(talk.served.api.stored.has("/f")).toBe(false);
  });

  it.each(["the stream", "the connection"])("writes nothing when %s of an upload breaks", async (what) => {
    await using talk = await open();
    const stream = talk.session.request({ ":path": fileAt("/half"), ":method": "PUT" }, { endStream: false });
    stream.on("error", () => undefined);
    stream.write(Buffer.alloc(100_000));
    // Answered on the same connection after the bytes above have arrived.
    await ask(talk.session, { ":path": `${PREFIX}/sandboxes` });
    if (what === "the stream") stream.close(8);
    else talk.session.destroy();
    await once(stream, "close");
    const client = clientOf(talk.served);
    expect(await client.list()).toHaveLength(1);
    await expect(client.files.stat("box", "/half")).rejects.toMatchObject({ code: "file_not_found" });
    expect(talk.served.api.stored.has("/half")).toBe(false);
  });

  it("survives streams that are reset with an error, and kills their commands", async () => {
    await using talk = await open();
    const stream = talk.session.request({ ":path": `${PREFIX}/sandboxes/box/exec`, ":method": "POST" });
    stream.on("error", () => undefined);
    stream.end('{"cmd":["sleep","60"]}');
    await expect.poll(() => talk.served.api.running.size).toBe(1);
    stream.close(2);
    await expect.poll(() => talk.served.api.running.size).toBe(0);
    expect((await ask(talk.session, { ":path": `${PREFIX}/sandboxes` })).status).toBe(200);
  });

  it("streams events as they come", async () => {
    await using talk = await open();
    const { api } = talk.served;
    const stream = talk.session.request({ ":path": `${PREFIX}/sandboxes/box/files/watch?path=/` });
    const [head] = (await once(stream, "response")) as [Record<string, unknown>];
    expect(head["content-type"]).toBe("text/event-stream");
    let text = "";
    stream.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    await expect.poll(() => text).toContain(": watching");
    await api.files.write("box", "/seen", Buffer.from("x"));
    await expect.poll(() => text).toContain('"/seen"');
    stream.close();
  });

  it("holds a download up that nobody reads, and breaks one that fails half way", async () => {
    await using talk = await open();
    const { api } = talk.served;
    let pulled = 0;
    api.files.read = async (_id, path) => ({
      info: { ...(await api.files.stat("box", "/")), is_dir: false, size: 0 },
      body: (async function* () {
        for (let count = 0; count < 1000; count++) {
          if (path === "/broken" && count === 2) throw new Error("half way");
          pulled++;
          yield new Uint8Array(65_536);
        }
      })(),
    });
    const slow = talk.session.request({ ":path": fileAt("/slow") });
    await once(slow, "response");
    await ask(talk.session, { ":path": `${PREFIX}/sandboxes` });
    // The windows and buffers of both sides hold a few megabytes; the file has 64.
    expect(pulled).toBeLessThan(500);
    slow.close();
    const broken = talk.session.request({ ":path": fileAt("/broken") });
    broken.resume();
    const [error] = (await once(broken, "error")) as [NodeJS.ErrnoException];
    expect(error.message).toContain("INTERNAL_ERROR");
  });

  it("works with curl, forms included", async () => {
    await using talk = await open();
    const file = join(authority.dir, "upload");
    writeFileSync(file, Buffer.alloc(1_500_000, "curl"));
    const curl = async (...args: string[]) =>
      (
        await run("curl", ["-sS", "--http2", "--cacert", authority.caFile, ...args], {
          encoding: "buffer",
          maxBuffer: 2 ** 24,
        })
      ).stdout;
    const version = ["-o", "/dev/null", "-w", "%{http_version} %{http_code}"];
    expect((await curl(...version, `${talk.served.url}${PREFIX}/sandboxes`)).toString()).toBe("2 200");
    await curl(
      "-F",
      "path=/form",
      "-F",
      `file=@${file}`,
      `${talk.served.url}${PREFIX}/sandboxes/box/files/upload`,
    );
    const back = await curl(`${talk.served.url}${PREFIX}/sandboxes/box/files/download?path=/form`);
    expect(back.equals(Buffer.alloc(1_500_000, "curl"))).toBe(true);
    await curl("-T", file, `${talk.served.url}${fileAt("/put")}`);
    expect(talk.served.api.stored.get("/put")?.length).toBe(1_500_000);
  });

  it("closes while a session is open", async () => {
    const talk = await open();
    const gone = once(talk.session, "close");
    await talk.served[Symbol.asyncDispose]();
    await gone;
  });
});
