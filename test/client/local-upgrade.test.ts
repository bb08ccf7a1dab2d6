import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createNodeClient } from "../../src/client/node/index.ts";

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "warren-upgrade-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

let count = 0;

/** Answers each connection with what `answers` has for it, once it has asked; keeps it open. */
async function server(...answers: string[]) {
  const path = join(dir, `${++count}.sock`);
  const asked: string[] = [];
  const sockets = new Set<Socket>();
  const listener: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {}).on("close", () => sockets.delete(socket));
    socket.once("data", (data) => {
      asked.push(data.toString("latin1"));
      socket.write(answers[Math.min(asked.length, answers.length) - 1] ?? "", "latin1");
    });
  });
  listener.listen(path);
  await once(listener, "listening");
  return {
    url: `unix:${path}`,
    asked,
    sockets,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      listener.close();
      await once(listener, "close");
    },
  };
}

const yes =
  "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
  "Sec-WebSocket-Protocol: warren.v1\r\n\r\n";
const frame = (opcode: number, payload: string) =>
  String.fromCharCode(0x80 | opcode, payload.length) + payload;

it("takes frames that come in one piece with the answer, and what comes of them", async () => {
  const frames = [
    frame(1, '{"type":"started"}'),
    frame(2, "\x01out"),
    frame(1, '{"type":"exit","data":"3"}'),
  ];
  await using local = await server(yes + frames.join(""));
  const session = await createNodeClient({ url: local.url, apiKey: "key" }).execStream("box", { cmd: ["x"] });
  const output: string[] = [];
  for await (const { stream, data } of session.output) output.push(stream, Buffer.from(data).toString());
  expect(output).toEqual(["stdout", "out"]);
  expect(await session.exit).toEqual({ exit_code: 3 });
  expect(local.asked[0]).toMatch(/^GET \/api\/v1\/sandboxes\/box\/exec\/stream HTTP\/1\.1\r\n/);
  expect(local.asked[0]).toContain("\r\nx-api-key: key\r\n");
  expect(local.asked).toHaveLength(1);
});

it("has Node's own client read an answer that is not yes", async () => {
  const body = '{"error":"no such box","code":"sandbox_not_found"}';
  const no = `HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
  await using local = await server(no);
  const opening = createNodeClient({ url: local.url }).execStream("box", { cmd: ["x"] });
  await expect(opening).rejects.toMatchObject({ code: "sandbox_not_found" });
  expect(local.asked).toHaveLength(2);
});

it.each([
  ["no HTTP", "SSH-2.0-server\r\n\r\n"],
  ["another protocol", yes.replace("warren.v1", "other")],
  ["a head that does not end", `HTTP/1.1 101 Switching Protocols\r\nx: ${"y".repeat(20_000)}`],
])("refuses a server that answers with %s", async (_name, answer) => {
  await using local = await server(answer);
  const opening = createNodeClient({ url: local.url }).execStream("box", { cmd: ["x"] });
  await expect(opening).rejects.toMatchObject({ code: "engine_unavailable" });
  await expect.poll(() => local.sockets.size).toBe(0);
});

it("gives up when the caller does", async () => {
  await using local = await server("");
  const client = createNodeClient({ url: local.url });
  const stop = new AbortController();
  const opening = client.execStream("box", { cmd: ["x"] }, { signal: stop.signal });
  await expect.poll(() => local.asked.length).toBe(1);
  stop.abort();
  await expect(opening).rejects.toMatchObject({ code: "cancelled" });
  await expect.poll(() => local.sockets.size).toBe(0);
}, 20_000);

it("sends no header that a line break would end", async () => {
  await using local = await server(yes);
  const client = createNodeClient({ url: local.url, apiKey: "key\r\nx-other: 1" });
  await expect(client.execStream("box", { cmd: ["x"] })).rejects.toThrow();
  expect(local.asked).toEqual([]);
});
