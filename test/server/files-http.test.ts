import { once } from "node:events";
import { connect } from "node:net";
import { describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import { PREFIX } from "../../src/server/route.ts";
import { type Served, serve } from "./serve.ts";

const files = (served: Served, rest = "", id = "box") =>
  `${served.url}${PREFIX}/sandboxes/${id}/files${rest}`;

describe("paths", () => {
  it.each([
    ["spaces and quotes", "/a b/'\"`;$(x)|&"],
    ["a newline", "/a\nb"],
    ["percent signs and pluses", "/100%/a+b"],
    ["dots", "/tmp/../etc/./x"],
    ["the longest", `/${"x".repeat(4094)}`],
    ["the longest, of multibyte characters", `/${"ü".repeat(2047)}`],
  ])("with %s arrive as they are", async (_name, path) => {
    await using served = await serve();
    const url = files(served, `?path=${encodeURIComponent(path)}`);
    expect((await fetch(url, { method: "PUT", body: "text" })).status).toBe(200);
    expect([...served.api.stored.keys()]).toEqual([path]);
    expect(await (await fetch(url)).text()).toBe("text");
  });

  it.each([
    ["no path", "", "path query parameter is required", "invalid_request"],
    ["an empty path", "?path=", "path query parameter is required", "invalid_path"],
    ["a relative path", "?path=tmp/x", "absolute path required", "invalid_path"],
    ["a NUL byte", "?path=/a%00b", "path contains null byte", "invalid_path"],
    ["bytes that are not UTF-8", "?path=/a%ffb", "the query is not percent-encoded UTF-8", "invalid_path"],
    ["a surrogate", "?path=/a%ed%a0%80b", "the query is not percent-encoded UTF-8", "invalid_path"],
    ["a broken escape", "?path=/a%4", "the query is not percent-encoded UTF-8", "invalid_path"],
    ["too long a path", `?path=/${"x".repeat(4095)}`, "path is longer than 4095 bytes", "invalid_path"],
    ["a mode that is not octal", "?path=/x&mode=9", "mode: octal", "invalid_request"],
  ])("%s is refused", async (_name, query, sentence, code) => {
    await using served = await serve();
    const response = await fetch(files(served, query), { method: "PUT", body: "x" });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ error: expect.stringContaining(sentence), code });
    expect(served.api.stored.size).toBe(0);
  });

  it("decode a plus as a space, as den does", async () => {
    await using served = await serve();
    await fetch(files(served, "?path=/a+b"), { method: "PUT", body: "x" });
    expect([...served.api.stored.keys()]).toEqual(["/a b"]);
  });
});

describe("reading", () => {
  it("gives any bytes, a range, and properties", async () => {
    await using served = await serve();
    const bytes = Buffer.from(Array.from({ length: 200_000 }, (_, index) => (index * 7) % 256));
    served.api.stored.set("/x", bytes);
    const response = await fetch(files(served, "?path=/x"));
    expect(Object.fromEntries(response.headers)).toMatchObject({
      "content-type": "application/octet-stream",
      "content-length": "200000",
      "last-modified": "Mon, 06 May 2024 07:08:09 GMT",
      "x-content-type-options": "nosniff",
    });
    expect(JSON.parse(response.headers.get("x-warren-file-info") ?? "")).toMatchObject({
      permissions: 0o644,
    });
    expect(bytes.equals(Buffer.from(await response.arrayBuffer()))).toBe(true);
    const part = await fetch(files(served, "?path=/x&offset=100&length=50"));
    expect(part.headers.get("content-length")).toBe("50");
    expect(Buffer.from(await part.arrayBuffer())).toEqual(bytes.subarray(100, 150));
    const beyond = await fetch(files(served, "?path=/x&offset=300000"));
    expect((await beyond.arrayBuffer()).byteLength).toBe(0);
  });

  it("answers HEAD without a body", async () => {
    await using served = await serve();
    served.api.stored.set("/x", Buffer.from("text"));
    const response = await fetch(files(served, "?path=/x"), { method: "HEAD" });
    expect(response.status).toBe(200);
    expect(response.headers.get("content-length")).toBe("4");
    expect(await response.text()).toBe("");
  });

  it.each([
    ["/dir/report.txt", "report.txt"],
    ['/a"; filename="evil.sh', "a___filename__evil.sh"],
    ["/ü\r\nX: y", "___X__y"],
    ["/", "download"],
  ])("downloads %j under a safe name", async (path, name) => {
    await using served = await serve();
    served.api.stored.set(path, Buffer.from("text"));
    const response = await fetch(files(served, `/download?path=${encodeURIComponent(path)}`));
    expect(response.headers.get("content-disposition")).toBe(`attachment; filename="${name}"`);
    expect(await response.text()).toBe("text");
  });

  it("breaks the connection rather than pass a part for the whole", async () => {
    await using served = await serve();
    served.api.stored.set("/x", Buffer.from("text"));
    const read = served.api.files.read.bind(served.api.files);
    served.api.files.read = async (...call) => {
      const file = await read(...call);
      const cut = async function* () {
        yield Buffer.from("te");
        throw new Error("lost");
      };
      return { ...file, body: cut() };
    };
    await expect(fetch(files(served, "?path=/x")).then((response) => response.text())).rejects.toThrow();
  });

  it("gives a failure before the first byte its own status", async () => {
    await using served = await serve();
    served.api.stored.set("/x", Buffer.from("text"));
    const { info } = await served.api.files.read("box", "/x");
    served.api.files.read = async () => ({
      info,
      // biome-ignore lint/correctness/useYield: it fails before it has anything to give
      body: (async function* (): AsyncGenerator<Uint8Array> {
        throw new WarrenError("guest_failed", "the sandbox does not answer");
      })(),
    });
    const response = await fetch(files(served, "?path=/x"));
    expect(response.status).toBe(502);
    expect(await response.json()).toMatchObject({ code: "guest_failed" });
  });

  it("tells a missing file, a stopped sandbox and an unknown one apart", async () => {
    await using served = await serve();
    const read = async (id: string) => {
      const response = await fetch(files(served, "?path=/none", id));
      return [response.status, ((await response.json()) as { code: string }).code];
    };
    expect(await read("box")).toEqual([404, "file_not_found"]);
    expect(await read("stopped")).toEqual([409, "sandbox_wrong_state"]);
    expect(await read("nobody")).toEqual([404, "sandbox_not_found"]);
  });
});

describe("forms", () => {
  const upload = (served: Served, form: FormData, query = "") =>
    fetch(files(served, `/upload${query}`), { method: "POST", body: form });
  const form = (...fields: [string, string | Blob][]) => {
    const made = new FormData();
    for (const [name, value] of fields) made.append(name, value);
    return made;
  };

  it("take the path before the file, after it, or in the query", async () => {
    await using served = await serve();
    const bytes = Buffer.from("\r\n--not the boundary\r\n\0\xff", "latin1");
    const file = new Blob([bytes]);
    for (const [made, query] of [
      [form(["path", "/before ü"], ["file", file]), ""],
      [form(["file", file], ["path", "/after"]), ""],
      [form(["file", file], ["ignored", "x"]), "?path=/query"],
    ] as const) {
      const response = await upload(served, made, query);
      expect(await response.json()).toEqual({ success: true, bytes: bytes.length });
    }
    expect([...served.api.stored]).toEqual([
      ["/before ü", bytes],
      ["/after", bytes],
      ["/query", bytes],
    ]);
  });

  it("are refused in den's words when something is missing", async () => {
    await using served = await serve();
    const big = new Blob([Buffer.alloc(2 * 1024 * 1024)]);
    for (const [made, sentence] of [
      [form(["file", new Blob(["x"])]), "path field is required"],
      [form(["file", big], ["path", "/late"]), "path field is required"],
      [form(["path", "/x"]), "file field is required"],
      [form(["path", "x"], ["file", "x"]), "absolute path required"],
      [form(["path", "/x"], ["file", "1"], ["file", "2"]), "a form takes one file"],
    ] as const) {
      const response = await upload(served, made);
      expect(response.status, sentence).toBe(400);
      expect(await response.json()).toMatchObject({ error: sentence });
    }
    const noForm = await fetch(files(served, "/upload"), { method: "POST", body: "x" });
    expect(await noForm.json()).toMatchObject({
      error: expect.stringMatching(/^failed to parse multipart form/),
    });
    expect(served.api.stored.size).toBe(0);
  });
});

describe("watching", () => {
  it("is a stream of server-sent events that ends with the client", async () => {
    await using served = await serve();
    const stop = new AbortController();
    const response = await fetch(files(served, "/watch?path=/&recursive=true"), { signal: stop.signal });
    expect(response.headers.get("content-type")).toBe("text/event-stream");
    const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
    expect((await reader?.read())?.value).toBe(": watching\n\n");
    await fetch(files(served, "?path=/new"), { method: "PUT", body: "x" });
    expect((await reader?.read())?.value).toBe('data: {"type":"create","path":"/new"}\n\n');
    stop.abort();
  });

  it("of nothing is an error at once", async () => {
    await using served = await serve();
    expect((await fetch(files(served, "/watch?path=/none"))).status).toBe(404);
  });
});

it("a client that stops reading ends the transfer when it goes away", async () => {
  await using served = await serve();
  let ended = false;
  const info = { ...(await served.api.files.stat("box", "/")), size: 2 ** 40 };
  served.api.files.read = async () => ({
    info,
    body: (async function* () {
      try {
        const chunk = new Uint8Array(1024 * 1024);
        while (true) yield chunk;
      } finally {
        ended = true;
      }
    })(),
  });
  const socket = connect(served.port, "127.0.0.1");
  await once(socket, "connect");
  socket.write(
    `GET ${PREFIX}/sandboxes/box/files?path=/x HTTP/1.1\r\nHost: 127.0.0.1:${served.port}\r\n\r\n`,
  );
  await once(socket, "readable");
  socket.destroy();
  await expect.poll(() => ended).toBe(true);
});
