import { once } from "node:events";
import { describe, expect, it } from "vitest";
import { type RawData, WebSocket } from "ws";
import { createNodeClient } from "../../src/client/node/index.ts";
import { WarrenError } from "../../src/contracts/errors.ts";
import { PREFIX } from "../../src/server/route.ts";
import { type Served, serve } from "./serve.ts";

interface Conversation {
  frames: Record<string, unknown>[];
  binary: Buffer[];
  closed: { code: number; reason: string };
}

const STREAM = `${PREFIX}/sandboxes/box/exec/stream`;

function open(served: Served, path = STREAM, protocols: string[] = []): WebSocket {
  return new WebSocket(served.url.replace("http", "ws") + path, protocols);
}

/** Sends frames once the socket is open, and gives all that comes until it is closed. */
async function converse(socket: WebSocket, ...send: (string | Uint8Array)[]): Promise<Conversation> {
  const frames: Record<string, unknown>[] = [];
  const binary: Buffer[] = [];
  socket.on("message", (data: RawData, isBinary) => {
    if (isBinary) binary.push(data as Buffer);
    else frames.push(JSON.parse(data.toString()));
  });
  socket.once("open", () => {
    for (const frame of send) socket.send(frame);
  });
  const [code, reason] = (await once(socket, "close")) as [number, Buffer];
  return { frames, binary, closed: { code, reason: reason.toString() } };
}

const textOf = ({ frames }: Conversation, type: string) =>
  frames
    .filter((frame) => frame.type === type)
    .map(({ data }) => data)
    .join("");

describe("den's exec stream", () => {
  it("runs one command from one frame and closes with 1000", async () => {
    await using served = await serve();
    const cmd = ["sh", "-c", 'echo "$GREETING"; echo err >&2; exit 7'];
    const talk = await converse(open(served), JSON.stringify({ cmd, env: { GREETING: "hi" }, timeout: 5 }));
    expect(textOf(talk, "stdout")).toBe("hi\n");
    expect(textOf(talk, "stderr")).toBe("err\n");
    expect(talk.frames.at(-1)).toEqual({ type: "exit", data: "7" });
    expect(talk.frames.map(({ type }) => type)).not.toContain("started");
    expect(talk.closed.code).toBe(1000);
  });

  it("never splits a character", async () => {
    await using served = await serve();
    const script = "printf '\\360\\237'; sleep 0.05; printf '\\220\\207\\357\\273\\277x\\303'";
    const talk = await converse(open(served), JSON.stringify({ cmd: ["sh", "-c", script] }));
    expect(textOf(talk, "stdout")).toBe("🐇\ufeffx\ufffd");
  });

  it.each([
    ["no JSON", "{", "invalid request"],
    ["a binary frame", Buffer.from("{}"), "invalid request"],
    ["no command", "{}", "cmd is required"],
    ["an empty command", '{"cmd":[]}', "cmd is required"],
  ])("refuses %s with an error frame and 1008", async (_name, frame, sentence) => {
    await using served = await serve();
    const talk = await converse(open(served), frame);
    expect(talk.frames).toEqual([
      expect.objectContaining({ type: "error", data: sentence, code: "invalid_request" }),
    ]);
    expect(talk.closed).toEqual({ code: 1008, reason: "invalid_request" });
  });

  it("tells a failure to start as an error frame", async () => {
    await using served = await serve();
    const frame = JSON.stringify({ cmd: ["true"] });
    const unknown = await converse(open(served, `${PREFIX}/sandboxes/nobody/exec/stream`), frame);
    expect(unknown.frames).toEqual([{ type: "error", data: "sandbox not found", code: "sandbox_not_found" }]);
    expect(unknown.closed.code).toBe(1008);
    served.api.failNext(new Error("a secret of the engine"));
    const broken = await converse(open(served), frame);
    expect(broken.frames).toEqual([expect.objectContaining({ type: "error", code: "internal" })]);
    expect(JSON.stringify(broken.frames)).not.toContain("secret");
    expect(broken.closed.code).toBe(1011);
    served.api.failNext(
      new WarrenError("guest_failed", "the sandbox does not answer", { hint: "restart it" }),
    );
    expect((await converse(open(served), frame)).frames).toEqual([
      { type: "error", data: "the sandbox does not answer", code: "guest_failed", hint: "restart it" },
    ]);
  });

  it("waits 10 s for the first frame", async () => {
    await using served = await serve();
    const talk = await converse(open(served));
    expect(talk.frames).toEqual([expect.objectContaining({ type: "error", data: "invalid request" })]);
    expect(talk.closed.code).toBe(1008);
  });

  it("kills the command when the client goes away", async () => {
    await using served = await serve();
    const socket = open(served);
    await once(socket, "open");
    socket.send(JSON.stringify({ cmd: ["sleep", "60"] }));
    await expect.poll(() => served.api.running.size).toBe(1);
    socket.terminate();
    await expect.poll(() => served.api.running.size).toBe(0);
  });
});

describe("Warren's exec stream", () => {
  it("says that the command has started, and carries any bytes both ways", async () => {
    await using served = await serve();
    const socket = open(served, STREAM, ["warren.v1"]);
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
    const talk = await converse(
      socket,
      JSON.stringify({ cmd: ["cat"], stdin: true, binary: true }),
      Buffer.concat([Buffer.from([0]), bytes]),
      '{"type":"eof"}',
    );
    expect(socket.protocol).toBe("warren.v1");
    expect(talk.frames[0]).toEqual({ type: "started" });
    expect(Buffer.concat(talk.binary.map((frame) => frame.subarray(1)))).toEqual(bytes);
    expect(talk.binary.every((frame) => frame[0] === 1)).toBe(true);
    expect(talk.frames.at(-1)).toEqual({ type: "exit", data: "0" });
  });

  it("sends signals and tells which one ended the command", async () => {
    await using served = await serve();
    const talk = await converse(
      open(served),
      '{"cmd":["sleep","60"]}',
      '{"type":"resize","cols":80,"rows":24}',
      '{"type":"signal","signal":"SIGTERM"}',
    );
    expect(talk.frames).toEqual([{ type: "exit", data: "143", signal: "SIGTERM" }]);
  });

  it.each([
    ["an unknown frame", '{"type":"dance"}'],
    ["an unknown signal", '{"type":"signal","signal":"SIGNOPE"}'],
    ["another channel", Buffer.from([1, 65])],
    ["an empty binary frame", Buffer.alloc(0)],
  ])("ends the command at %s", async (_name, frame) => {
    await using served = await serve();
    const talk = await converse(open(served), '{"cmd":["sleep","60"],"stdin":true}', frame);
    expect(talk.closed.code).toBe(1008);
    await expect.poll(() => served.api.running.size).toBe(0);
  });

  it("refuses a frame beyond 1 MiB and ends the command", async () => {
    await using served = await serve();
    const talk = await converse(
      open(served),
      '{"cmd":["sleep","60"],"stdin":true}',
      Buffer.alloc(1024 * 1024 + 1),
    );
    expect(talk.closed.code).toBe(1009);
    await expect.poll(() => served.api.running.size).toBe(0);
  });

  it("holds a command up whose output nobody takes, and lets it go on", async () => {
    await using served = await serve();
    const client = createNodeClient({ url: served.url });
    const size = 64 * 1024 * 1024;
    await using session = await client.execStream("box", { cmd: ["head", "-c", String(size), "/dev/zero"] });
    const output = session.output[Symbol.asyncIterator]();
    let total = (await output.next()).value?.data.length ?? 0;
    // Far more than socket buffers hold is still to come.
    expect(served.api.running.size).toBe(1);
    for (let next = await output.next(); !next.done; next = await output.next())
      total += next.value.data.length;
    expect(total).toBe(size);
    expect((await session.exit).exit_code).toBe(0);
  });

  it("holds a client up whose input nobody reads, and still passes signals on", async () => {
    await using served = await serve();
    const client = createNodeClient({ url: served.url });
    await using session = await client.execStream("box", { cmd: ["sleep", "60"], stdin: true });
    await session.write(new Uint8Array(100_000));
    await session.signal("SIGTERM");
    expect(await session.exit).toEqual({ exit_code: 143, signal: "SIGTERM" });
    await using reader = await client.execStream("box", { cmd: ["wc", "-c"], stdin: true });
    const size = 32 * 1024 * 1024;
    await reader.write(new Uint8Array(size));
    await reader.end();
    let text = "";
    for await (const { data } of reader.output) text += Buffer.from(data).toString();
    expect(text.trim()).toBe(String(size));
  });

  it("ends the command of a client that goes away while it is held up", async () => {
    await using served = await serve();
    const socket = open(served);
    await once(socket, "open");
    socket.send('{"cmd":["sleep","60"],"stdin":true}');
    await expect.poll(() => served.api.running.size).toBe(1);
    // More than the pipe, our queue and the socket's buffers hold, in frames that cost more than their bytes.
    for (let count = 0; count < 100_000; count++) socket.send(Buffer.from([0, 65]));
    for (let count = 0; count < 32; count++) socket.send(Buffer.alloc(512 * 1024));
    await expect.poll(() => socket.bufferedAmount).toBeGreaterThan(1024 * 1024);
    expect(served.api.running.size).toBe(1);
    socket.terminate();
    await expect.poll(() => served.api.running.size, { timeout: 15_000 }).toBe(0);
  });

  it("tells clients when the server closes, and ends their commands", async () => {
    const served = await serve();
    const talking = converse(open(served), '{"cmd":["sleep","60"]}');
    await expect.poll(() => served.api.running.size).toBe(1);
    await served[Symbol.asyncDispose]();
    const talk = await talking;
    expect(talk.frames).toEqual([expect.objectContaining({ type: "error", code: "shutting_down" })]);
    expect(talk.closed.code).toBe(1001);
    expect(served.api.running.size).toBe(0);
  });

  it("answers requests that ask for no upgrade, or for one elsewhere", async () => {
    await using served = await serve();
    const plain = await fetch(served.url + STREAM);
    expect(plain.status).toBe(400);
    expect(await plain.json()).toMatchObject({ error: "this route needs a WebSocket upgrade" });
    const elsewhere = open(served, `${PREFIX}/sandboxes/box/exec`);
    const [error] = (await once(elsewhere, "error")) as [Error];
    expect(error.message).toContain("404");
  });
});
