import { once } from "node:events";
import { connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";
import { describe, expect, it } from "vitest";
import { createNodeClient } from "../../src/client/node/index.ts";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { ImageProgress } from "../../src/contracts/images.ts";
import { createDeferred } from "../../src/lib/deferred.ts";
import { progressEvents } from "../../src/server/progress-events.ts";
import { PREFIX } from "../../src/server/route.ts";
import { eventually } from "../../src/testing/wait.ts";
import { createAuthority } from "./certificates.ts";
import { serve } from "./serve.ts";

const PULL = `${PREFIX}/images/pull`;
const BUILD = `${PREFIX}/images/build?tag=t`;
const image = { reference: "t", id: "i", runtime: "test" };

/** The blocks of an answer in server-sent events. */
async function blocks(response: Response): Promise<string[]> {
  return (await response.text()).split("\n\n").filter((block) => block !== "" && !block.startsWith(":"));
}

const post = (url: string, body: BodyInit, init: RequestInit = {}) =>
  fetch(url, { method: "POST", body, duplex: "half", ...init } as RequestInit);

describe("a pull", () => {
  it("is told as events, and the image as the last", async () => {
    await using served = await serve();
    const response = await post(served.url + PULL, '{"reference":"a/b:1"}');
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toBe("text/event-stream");
    expect(await blocks(response)).toEqual([
      'data: {"layer":"l1","status":"downloading","current":1,"total":2}',
      'data: {"image":{"reference":"a/b:1","id":"i","runtime":"test"}}',
    ]);
  });

  it("that fails at once has its status, and one that fails later an event", async () => {
    await using served = await serve();
    served.api.images.pull = async () => {
      throw new WarrenError("unsupported", "no images here", { hint: "elsewhere" });
    };
    const refused = await post(served.url + PULL, '{"reference":"x"}');
    expect(refused.status).toBe(400);
    expect(await refused.json()).toEqual({ error: "no images here", code: "unsupported", hint: "elsewhere" });
    served.api.images.pull = async (_request, { onProgress } = {}) => {
      onProgress?.({ line: "so far" });
      await new Promise((resolve) => setTimeout(resolve, 50));
      throw new WarrenError("image_pull_failed", "the registry is gone", { cause: new Error("secret") });
    };
    expect(await blocks(await post(served.url + PULL, '{"reference":"x"}'))).toEqual([
      'data: {"line":"so far"}',
      'event: error\ndata: {"error":"the registry is gone","code":"image_pull_failed"}',
    ]);
    served.api.images.pull = async (_request, { onProgress } = {}) => {
      onProgress?.({ line: "so far" });
      await new Promise((resolve) => setTimeout(resolve, 50));
      throw new TypeError("a secret of the engine");
    };
    const [, last = ""] = await blocks(await post(served.url + PULL, '{"reference":"x"}'));
    expect(last).toContain('"code":"internal"');
    expect(last).not.toContain("secret of the engine");
  });

  it.each([
    ["nothing", ""],
    ["a list", "[]"],
    ["no reference", "{}"],
    ["__proto__", '{"reference":"x","__proto__":{}}'],
    ["an option for a program", '{"reference":"--help"}'],
    ["an escape sequence", '{"reference":"a\\u001b[2J"}'],
    ["a runtime too long", JSON.stringify({ reference: "x", runtime: "x".repeat(33) })],
  ])("of %s is refused", async (_name, body) => {
    await using served = await serve();
    const response = await post(served.url + PULL, body);
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: "invalid_request" });
  });

  it("ends when its client goes away", async () => {
    await using served = await serve();
    const asked = createDeferred<AbortSignal | undefined>();
    served.api.images.pull = (_request, { signal, onProgress } = {}) =>
      new Promise((_resolve, reject) => {
        onProgress?.({ line: "begun" });
        asked.resolve(signal);
        signal?.addEventListener("abort", () => reject(new WarrenError("cancelled", "given up")));
      });
    const stop = new AbortController();
    const client = createNodeClient({ url: served.url });
    const pulling = client.images.pull({ reference: "x" }, { signal: stop.signal });
    pulling.catch(() => {});
    const signal = await asked.promise;
    expect(signal?.aborted).toBe(false);
    stop.abort();
    await expect(pulling).rejects.toMatchObject({ code: "cancelled" });
    await eventually("the end", () => signal?.aborted);
  });
});

describe("progress", () => {
  it("of a flood costs a slow reader bounded memory, and says what was left out", async () => {
    const go = createDeferred<void>();
    const events = progressEvents(async (onProgress) => {
      for (let i = 0; i < 100_000; i++) {
        onProgress({ line: `line ${i}` });
        onProgress({ layer: `l${i % 5000}`, status: `s${i}` });
      }
      await go.promise;
      return image;
    });
    const heard: ImageProgress[] = [];
    go.resolve();
    for await (const event of events) if (!("image" in event)) heard.push(event);
    expect(heard).toHaveLength(1000 + 1 + 1000);
    expect(heard).toContainEqual({ line: "… 99000 lines are left out" });
    expect(heard.at(-1)).toEqual({ line: "line 99999" });
    expect(heard[0]).toEqual({ layer: "l0", status: "s95000" });
  });

  it("that comes after the end of the call is not told", async () => {
    let late: (progress: ImageProgress) => void = () => {};
    const heard: unknown[] = [];
    for await (const event of progressEvents(async (onProgress) => {
      late = onProgress;
      onProgress({ line: "in time" });
      return image;
    })) {
      late({ line: "late" });
      heard.push(event);
    }
    expect(heard.at(-1)).toEqual({ image });
  });
});

describe("a build", () => {
  it("reads its request from the query", async () => {
    await using served = await serve();
    const asked: unknown[] = [];
    served.api.images.build = async (request) => {
      asked.push(request);
      return image;
    };
    const query =
      "tag=a%2Fb%3A1&dockerfile=x%20y&build_arg=A%3D1%3D2&build_arg=B%3D&no_cache=true&network=open&target=t&runtime=r";
    await post(`${served.url}${PREFIX}/images/build?${query}`, "x");
    expect(asked).toEqual([
      {
        tag: "a/b:1",
        dockerfile: "x y",
        build_args: { A: "1=2", B: "" },
        no_cache: true,
        network: "open",
        target: "t",
        runtime: "r",
      },
    ]);
    for (const bad of [
      "",
      "tag=a&build_arg=x",
      "tag=a&build_arg=__proto__%3Dx",
      "tag=a&no_cache=perhaps",
      "tag=%ff",
    ]) {
      const response = await post(`${served.url}${PREFIX}/images/build?${bad}`, "x");
      expect(response.status, bad).toBe(400);
    }
    expect(asked).toHaveLength(1);
  });

  it("is told of while its context still comes", async () => {
    await using served = await serve();
    const client = createNodeClient({ url: served.url });
    const told: ImageProgress[] = [];
    const go = createDeferred<void>();
    async function* context() {
      yield Buffer.alloc(1000);
      // The server speaks before it has all.
      await go.promise;
      for (let i = 0; i < 100; i++) yield Buffer.alloc(100_000);
    }
    const building = client.images.build({ tag: "t" }, context(), {
      onProgress: (progress) => {
        told.push(progress);
        go.resolve();
      },
    });
    expect(await building).toMatchObject({ reference: "t", size: 10_001_000 });
    expect(told[0]).toEqual({ line: "1000 bytes" });
  });

  it("that is refused half way says why, and its connection ends", async () => {
    await using served = await serve();
    served.api.images.build = async (_request, context, { onProgress } = {}) => {
      let size = 0;
      for await (const chunk of context) {
        size += chunk.length;
        onProgress?.({ line: `${size}` });
        if (size > 500_000) throw new WarrenError("too_large", "no more");
      }
      throw new Error("must have been refused");
    };
    const client = createNodeClient({ url: served.url });
    const ended = createDeferred<void>();
    async function* endless() {
      try {
        for (;;) {
          yield Buffer.alloc(65_536);
          await new Promise((resolve) => setImmediate(resolve));
        }
      } finally {
        ended.resolve();
      }
    }
    await expect(client.images.build({ tag: "t" }, endless())).rejects.toMatchObject({ code: "too_large" });
    await ended.promise;
    // The next call has a connection of its own.
    expect(await client.images.list()).toEqual([]);
  });

  it("tells a client that speaks plain HTTP the same, and then hangs up", async () => {
    await using served = await serve();
    served.api.images.build = async (_request, context, { onProgress } = {}) => {
      for await (const _ of context) break;
      onProgress?.({ line: "enough" });
      await new Promise((resolve) => setTimeout(resolve, 20));
      throw new WarrenError("image_build_failed", "it is broken");
    };
    const socket = connect(served.port, "127.0.0.1");
    await once(socket, "connect");
    socket.write(
      `POST ${BUILD} HTTP/1.1\r\nHost: 127.0.0.1:${served.port}\r\nContent-Length: 1000000\r\n\r\n${"x".repeat(5000)}`,
    );
    let text = "";
    for await (const chunk of socket) text += chunk.toString("latin1");
    expect(text).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    expect(text).toContain('data: {"line":"enough"}');
    expect(text).toContain('event: error\ndata: {"error":"it is broken","code":"image_build_failed"}');
  });

  it("ends when its client breaks off, in the middle of the context or after it", async () => {
    await using served = await serve();
    const outcomes: unknown[] = [];
    let had = 0;
    let whole = 0;
    served.api.images.build = async (_request, context, { signal } = {}) => {
      try {
        for await (const piece of context) had += piece.length;
        whole++;
        await new Promise((_resolve, reject) => {
          signal?.addEventListener("abort", () => reject(new WarrenError("cancelled", "the signal")));
        });
      } catch (error) {
        outcomes.push((error as Error).message);
        throw error;
      }
      return image;
    };
    for (const length of [5000, 6000]) {
      const socket = connect(served.port, "127.0.0.1");
      await once(socket, "connect");
      socket.write(
        `POST ${BUILD} HTTP/1.1\r\nHost: 127.0.0.1:${served.port}\r\nContent-Length: ${length}\r\n\r\n${"x".repeat(5000)}`,
      );
      await eventually("what was sent", () => (length === 5000 ? whole === 1 : had === 10_000));
      socket.destroy();
    }
    await eventually("both ends", () => outcomes.length === 2);
    expect(outcomes.sort()).toEqual(["the client went away", "the signal"]);
  });

  it("is told over HTTP/2 as well, to its end or that of its client", async () => {
    using authority = createAuthority();
    await using served = await serve({}, { tls: authority.issue("server", "IP:127.0.0.1"), http2: true });
    const session = connectHttp2(served.url, { ca: authority.ca });
    const open = () => session.request({ ":method": "POST", ":path": BUILD });
    try {
      const stream = open();
      const body = (async () => {
        let text = "";
        for await (const chunk of stream) text += chunk;
        return text;
      })();
      stream.write(Buffer.alloc(1000));
      const [headers] = await once(stream, "response");
      expect(headers[":status"]).toBe(200);
      stream.end(Buffer.alloc(500));
      expect(await body).toContain('data: {"image":{"reference":"t","id":"i","runtime":"test","size":1500}}');
      const ended = createDeferred<string>();
      const begun = createDeferred<void>();
      served.api.images.build = async (_request, context) => {
        try {
          for await (const _ of context) begun.resolve();
        } catch (error) {
          ended.resolve((error as Error).message);
          throw error;
        }
        throw new Error("it was taken for the whole");
      };
      const broken = open();
      broken.on("error", () => {});
      broken.write(Buffer.alloc(1000));
      await begun.promise;
      broken.destroy();
      expect(await ended.promise).toBe("the client went away");
    } finally {
      session.destroy();
    }
  });

  it("tells its caller why the caller's own bytes could not be had", async () => {
    await using served = await serve();
    async function* broken() {
      yield Buffer.alloc(1000);
      await new Promise((resolve) => setTimeout(resolve, 300));
      throw new Error("the disk is gone");
    }
    const client = createNodeClient({ url: served.url });
    await expect(client.images.build({ tag: "t" }, broken())).rejects.toThrow("the disk is gone");
  });

  it("takes a context that comes slowly, without holding anybody up", async () => {
    await using served = await serve();
    const client = createNodeClient({ url: served.url });
    async function* slow() {
      for (let i = 0; i < 20; i++) {
        yield Buffer.alloc(100);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
    const building = client.images.build({ tag: "t" }, slow());
    expect(await client.images.list()).toEqual([]);
    expect(await building).toMatchObject({ size: 2000 });
  });
});

it("asks for a key on every one of these routes", async () => {
  await using served = await serve({ apiKeys: ["k"] });
  for (const [method, path] of [
    ["GET", "/images"],
    ["GET", "/images/inspect?reference=x"],
    ["DELETE", "/images?reference=x"],
    ["POST", "/images/pull"],
    ["POST", "/images/build?tag=x"],
    ["GET", "/volumes"],
    ["POST", "/volumes"],
    ["GET", "/volumes/inspect?name=x"],
    ["GET", "/volumes/usage"],
    ["DELETE", "/volumes?name=x"],
    ["POST", "/prune"],
  ] as const) {
    const response = await fetch(served.url + PREFIX + path, { method });
    expect(response.status, path).toBe(401);
  }
});

it.each([
  ["GET", "/images/inspect", "reference query parameter is required"],
  ["DELETE", "/images", "reference query parameter is required"],
  ["GET", "/volumes/inspect", "name query parameter is required"],
  ["DELETE", "/volumes", "name query parameter is required"],
  ["POST", "/images/build", "tag query parameter is required"],
])("%s %s wants its parameter", async (method, path, sentence) => {
  await using served = await serve();
  const response = await fetch(served.url + PREFIX + path, { method });
  expect(response.status).toBe(400);
  expect(await response.json()).toMatchObject({ error: expect.stringContaining(sentence) });
});
