import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { WarrenError } from "../../../src/contracts/errors.ts";
import { createApiClient, EngineRefusal } from "../../../src/runtimes/containers/api-client.ts";
import { expectFailure } from "../../../src/testing/failures.ts";

const PING = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK";

let dir: string;
let path: string;
let server: Server | undefined;
const sockets = new Set<Socket>();
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "wapi-"));
  path = join(dir, "s");
});
afterEach(async () => {
  await stop();
  rmSync(dir, { recursive: true });
});

/** An engine that greets as one does, and then answers each request with what `answer` does to its connection. */
async function serve(answer: (socket: Socket, request: string) => void, greets = true): Promise<string[]> {
  const requests: string[] = [];
  server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.on("data", (data) => {
      const request = data.toString("latin1");
      if (greets && request.includes(" /_ping ")) return socket.write(PING);
      requests.push(request.split("\r\n")[0] ?? "");
      return answer(socket, request);
    });
  });
  server.listen(path);
  await once(server, "listening");
  return requests;
}

async function stop(): Promise<void> {
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  if (!server) return;
  server.close();
  await once(server, "close");
  server = undefined;
}

const client = (revive?: () => Promise<void>) =>
  createApiClient({ kind: "unix", path }, revive ? { revive } : {});
const ask = { path: "/info", timeoutMs: 2000 };
const ok = (body: string) =>
  `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;

describe("an engine that behaves", () => {
  it("is asked in the version that it speaks, and answers", async () => {
    const requests = await serve((socket) => socket.write(ok('{"a":1}')));
    expect(await client().json(ask)).toEqual({ a: 1 });
    expect(requests).toEqual(["GET /v1.41/info HTTP/1.1"]);
  });

  it("refuses with its own words, without what could move a terminal", async () => {
    const body = JSON.stringify({ message: "no such \u001b[31mthing\n" });
    await serve((socket) =>
      socket.write(`HTTP/1.1 404 Not Found\r\nContent-Length: ${body.length}\r\n\r\n${body}`),
    );
    const error = await client()
      .json(ask)
      .catch((e: unknown) => e);
    expect(error).toBeInstanceOf(EngineRefusal);
    expect(error).toMatchObject({ status: 404, message: "no such  [31mthing" });
  });
});

describe("an engine that does not", () => {
  it.each<[string, (socket: Socket) => void, "runtime_failed" | "runtime_unavailable" | "deadline_exceeded"]>(
    [
      ["closes without a word", (socket) => socket.destroy(), "runtime_unavailable"],
      ["says what is no HTTP", (socket) => socket.end("\u0000\u0001garbage\r\n\r\n"), "runtime_unavailable"],
      ["answers with what is no JSON", (socket) => socket.write(ok("{")), "runtime_failed"],
      [
        "stops half way through its answer",
        (socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"a"'),
        "runtime_unavailable",
      ],
      [
        "never ends its answer",
        (socket) => socket.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
        "deadline_exceeded",
      ],
      ["never answers", () => {}, "deadline_exceeded"],
      [
        "goes on for ever",
        (socket) => {
          socket.write("HTTP/1.1 200 OK\r\n\r\n");
          const chunk = Buffer.alloc(1024 * 1024, " ");
          const more = () => {
            while (socket.writable && socket.write(chunk));
            if (socket.writable) socket.once("drain", more);
          };
          more();
        },
        "runtime_failed",
      ],
    ],
  )("and %s is told apart", async (_, answer, code) => {
    await serve(answer);
    await expectFailure(client().json({ ...ask, timeoutMs: code === "runtime_failed" ? 20_000 : 500 }), code);
    await expect.poll(() => [...sockets].every((socket) => socket.destroyed)).toBe(true);
  });

  it("and is none, or too old, is not used", async () => {
    await serve((socket) => socket.end(ok("{}")), false);
    await expectFailure(client().json(ask), "runtime_unavailable");
    await stop();
    await serve(
      (socket) => socket.end("HTTP/1.1 200 OK\r\nApi-Version: 1.12\r\nContent-Length: 0\r\n\r\n"),
      false,
    );
    expect((await expectFailure(client().json(ask), "runtime_unavailable")).message).toMatch(/too old/);
  });

  it("and is not there is named", async () => {
    expect((await expectFailure(client().json(ask), "runtime_unavailable")).message).toContain(path);
  });

  it("ends when its caller gives up", async () => {
    await serve(() => {});
    const controller = new AbortController();
    const asked = client().json({ ...ask, timeoutMs: 0, signal: controller.signal });
    setTimeout(() => controller.abort(), 50);
    await expectFailure(asked, "cancelled");
    await expect.poll(() => [...sockets].every((socket) => socket.destroyed)).toBe(true);
  });
});

describe("a service that has gone", () => {
  const create = { method: "POST", path: "/containers/create", body: {}, timeoutMs: 2000 } as const;

  it("is brought back before anything was sent, whatever is asked", async () => {
    let revivals = 0;
    let requests: string[] = [];
    const revived = client(async () => {
      revivals++;
      requests = await serve((socket) => socket.write(ok('{"Id":"x"}')));
    });
    expect(await revived.json(create)).toEqual({ Id: "x" });
    expect(requests).toEqual(["POST /v1.41/containers/create HTTP/1.1"]);
    await stop();
    expect(await revived.json(create)).toEqual({ Id: "x" });
    expect(revivals).toBe(2);
  });

  it("is asked a second time only for what changes nothing", async () => {
    let times = 0;
    const requests = await serve((socket) => {
      if (times++ === 0) socket.destroy();
      else socket.write(ok("{}"));
    });
    let revivals = 0;
    const revived = client(async () => {
      revivals++;
    });
    expect(await revived.json(ask)).toEqual({});
    expect(revivals).toBe(1);
    times = 0;
    await expectFailure(revived.json(create), "runtime_unavailable");
    expect(revivals).toBe(1);
    expect(requests).toHaveLength(3);
  });

  it("is said to be gone when it can't be brought back", async () => {
    const error = await expectFailure(
      client(async () => {
        throw new WarrenError("runtime_unavailable", "no more");
      }).json(ask),
      "runtime_unavailable",
    );
    expect(error.message).toBe("no more");
  });
});
