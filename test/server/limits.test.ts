import { once } from "node:events";
import { connect } from "node:net";
import { describe, expect, it } from "vitest";
import { createNodeClient } from "../../src/client/node/index.ts";
import { PREFIX } from "../../src/server/route.ts";
import { rawExchange } from "./raw.ts";
import { serve } from "./serve.ts";

const EXEC = `${PREFIX}/sandboxes/box/exec`;
const FILE = `${PREFIX}/sandboxes/box/files?path=/x`;
const json = (response: Response) => response.json() as Promise<Record<string, unknown>>;

describe("JSON bodies", () => {
  it.each([
    ["nothing", "", "invalid request body"],
    ["not JSON", "{", "invalid request body"],
    ["an array", "[]", "invalid request body"],
    ["null", "null", "invalid request body"],
    ["bytes that are not UTF-8", new Uint8Array([0x7b, 0xff, 0x7d]), "invalid request body"],
    ["something after the object", '{"cmd":["true"]} x', "invalid request body"],
    ["no command", "{}", "cmd is required"],
    ["an empty command", '{"cmd":[]}', "cmd is required"],
    ["a command that is no list", '{"cmd":"ls"}', "cmd is required"],
    ["__proto__", '{"cmd":["true"],"env":{"__proto__":"x"}}', "__proto__ is not a usable name"],
    ["an escaped __proto__", '{"cmd":["true"],"\\u005f_proto__":{}}', "__proto__ is not a usable name"],
    ["a NUL byte", '{"cmd":["a\\u0000b"]}', "cmd"],
    ["a relative directory", '{"cmd":["true"],"workdir":"tmp"}', "workdir: absolute path required"],
  ])("%s is refused by name", async (_name, body, sentence) => {
    await using served = await serve();
    const response = await fetch(served.url + EXEC, { method: "POST", body });
    expect(response.status).toBe(400);
    expect(await json(response)).toMatchObject({
      error: expect.stringContaining(sentence),
      code: "invalid_request",
    });
  });

  it("takes unknown fields and nulls, as den does", async () => {
    await using served = await serve();
    const body = JSON.stringify({ cmd: ["true"], env: null, timeout: null, unknown: { deep: [null] } });
    const response = await fetch(served.url + EXEC, { method: "POST", body });
    expect(await json(response)).toMatchObject({ exit_code: 0 });
  });

  it("may have 1 MiB, announced or not", async () => {
    await using served = await serve();
    const fits = JSON.stringify({ cmd: ["true"], filler: "x".repeat(1024 ** 2 - 64) });
    const huge = JSON.stringify({ cmd: ["true"], filler: "x".repeat(3 * 1024 ** 2) });
    const post = (body: BodyInit) =>
      fetch(served.url + EXEC, { method: "POST", body, duplex: "half" } as RequestInit);
    expect((await post(fits)).status).toBe(200);
    for (const body of [huge, new Blob([huge]).stream()]) {
      const response = await post(body);
      expect(response.status).toBe(413);
      expect(await json(response)).toMatchObject({ code: "too_large" });
    }
    expect(served.api.running.size).toBe(0);
  });
});

describe("uploads", () => {
  it("beyond the limit are refused and leave nothing", async () => {
    await using served = await serve({ maxUploadBytes: 100_000 });
    const body = Buffer.alloc(100_001);
    const put = (init: RequestInit) =>
      fetch(served.url + FILE, { method: "PUT", duplex: "half", ...init } as RequestInit);
    for (const sent of [body, new Blob([body]).stream()]) {
      const response = await put({ body: sent });
      expect(response.status).toBe(413);
      expect(await json(response)).toMatchObject({ code: "too_large" });
    }
    const form = new FormData();
    form.set("path", "/x");
    form.set("file", new Blob([body]), "x");
    const upload = await fetch(`${served.url}${PREFIX}/sandboxes/box/files/upload`, {
      method: "POST",
      body: form,
    });
    expect(upload.status).toBe(413);
    expect(served.api.stored.size).toBe(0);
    expect((await put({ body: body.subarray(1) })).status).toBe(200);
    expect(served.api.stored.get("/x")).toHaveLength(100_000);
  });

  it("that break off leave nothing", async () => {
    await using served = await serve();
    const head = `Host: 127.0.0.1:${served.port}\r\n`;
    const boundary = "multipart/form-data; boundary=b";
    for (const start of [
      `PUT ${FILE} HTTP/1.1\r\n${head}Content-Length: 1000\r\n\r\nhalf`,
      `PUT ${FILE} HTTP/1.1\r\n${head}Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n`,
      `POST ${PREFIX}/sandboxes/box/files/upload HTTP/1.1\r\n${head}Content-Type: ${boundary}\r\nContent-Length: 1000\r\n\r\n` +
        '--b\r\nContent-Disposition: form-data; name="path"\r\n\r\n/x\r\n--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nhalf',
    ]) {
      const socket = connect(served.port, "127.0.0.1");
      await once(socket, "connect");
      socket.write(start);
      // The server has the request when it answers another one that came after it.
      await (await fetch(`${served.url}${PREFIX}/health`)).text();
      socket.destroy();
      await once(socket, "close");
    }
    await (await fetch(`${served.url}${PREFIX}/health`)).text();
    expect(served.api.stored.size).toBe(0);
  });

  it("are refused before they are sent whole, and the client hears why", async () => {
    await using served = await serve();
    const client = createNodeClient({ url: served.url });
    let sent = 0;
    const endless = (async function* () {
      const chunk = new Uint8Array(64 * 1024);
      while (sent < 2 ** 40) {
        sent += chunk.length;
        yield chunk;
      }
    })();
    await expect(client.files.write("nobody", "/x", endless)).rejects.toMatchObject({
      code: "sandbox_not_found",
    });
  });
});

describe("a bad peer", () => {
  it("that sends its headers slowly is cut off", async () => {
    await using served = await serve({ headersTimeoutMs: 300 });
    // Keeps its own side open for as long as it can.
    const socket = connect({ port: served.port, host: "127.0.0.1", allowHalfOpen: true });
    socket.on("error", () => {});
    await once(socket, "connect");
    socket.write("GET / HTTP/1.1\r\nHost: x\r\n");
    const drip = setInterval(() => socket.write("X: y\r\n"), 50);
    let answer = "";
    socket.on("data", (chunk) => {
      answer += chunk;
    });
    await new Promise((resolve) => socket.once("close", resolve));
    clearInterval(drip);
    expect(answer).toMatch(/^HTTP\/1\.1 499 .*"the request's headers took too long"/s);
  });

  it.each([
    ["garbage", "\x16\x03\x01garbage\r\n\r\n", /^HTTP\/1\.1 400 .*"code":"invalid_request"/s],
    [
      "huge headers",
      `GET / HTTP/1.1\r\nX: ${"y".repeat(70_000)}\r\n\r\n`,
      /^HTTP\/1\.1 413 .*"code":"too_large"/s,
    ],
    [
      "two lengths",
      "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
      /^HTTP\/1\.1 400 /,
    ],
  ])("that sends %s gets an answer", async (_name, request, answer) => {
    await using served = await serve();
    expect(await rawExchange(served.port, request)).toMatch(answer);
  });
});
