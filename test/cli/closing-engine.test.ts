import { once } from "node:events";
import { mkdirSync, renameSync, rmSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { WebSocketServer } from "ws";
import { openWorkspace, type Workspace } from "./workspace.ts";

const SHUTTING_DOWN = JSON.stringify({ error: "the engine is shutting down", code: "shutting_down" });

/** Listens as an engine that is on its way out; `leave` makes its place free, as the end of an engine does. */
async function inPlaceOfEngine(workspace: Workspace, server: Server): Promise<{ leave: () => void }> {
  mkdirSync(workspace.stateDir, { mode: 0o700 });
  const path = join(workspace.stateDir, "engine.sock");
  const sockets = new Set<Socket>();
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
  });
  server.listen(path);
  await once(server, "listening");
  return {
    leave() {
      server.close();
      rmSync(path, { force: true });
      for (const socket of sockets) socket.destroySoon();
    },
  };
}

describe("a command that meets an engine which is just closing", () => {
  it("is given to the next one, when it was refused", async () => {
    await using workspace = openWorkspace();
    const asked: (string | undefined)[] = [];
    const server = createHttpServer((request, response) => {
      asked.push(request.url);
      response.writeHead(503, { "content-type": "application/json", connection: "close" });
      response.end(SHUTTING_DOWN, () => closing.leave());
    });
    const closing = await inPlaceOfEngine(workspace, server);
    await workspace.ok(["create", "--name", "box"]);
    expect(asked).toEqual(["/api/v1/sandboxes"]);
    expect(JSON.parse(await workspace.ok(["ls", "--json"]))).toHaveLength(1);
  });

  it.each([
    ["secret", "ls", "absent"],
    ["network", "show", "absent"],
    ["port", "ls", "absent"],
  ])("is given to the next one, whatever it is about: %s", async (...args) => {
    await using workspace = openWorkspace();
    const server = createHttpServer((_request, response) => {
      response.writeHead(503, { "content-type": "application/json", connection: "close" });
      response.end(SHUTTING_DOWN, () => closing.leave());
    });
    const closing = await inPlaceOfEngine(workspace, server);
    expect((await workspace.warren(args)).stderr).toContain("there is no sandbox");
  });

  it("is given to the next one, when it could not even connect", { timeout: 120_000 }, async () => {
    for (let tries = 1; ; tries++) {
      await using workspace = openWorkspace();
      // The first connection is the question whether anybody is there.
      const server = createServer((socket) => {
        closing.leave();
        socket.destroy();
      });
      const closing = await inPlaceOfEngine(workspace, server);
      const { code, stderr } = await workspace.warren(["create", "--name", "box"]);
      // A quick one has connected a second time before we have left: that is the next test.
      if (code !== 0 && tries < 20 && stderr.includes("no answer")) continue;
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      expect(JSON.parse(await workspace.ok(["ls", "--json"]))).toHaveLength(1);
      break;
    }
  });

  it("is not made twice, when the connection broke behind the request", async () => {
    await using workspace = openWorkspace();
    const server = createHttpServer((request) => {
      closing.leave();
      request.socket.destroy();
    });
    const closing = await inPlaceOfEngine(workspace, server);
    const { code, stderr } = await workspace.warren(["create"]);
    expect(code).toBe(1);
    expect(stderr).toContain("no answer");
    // No engine was started for it.
    expect(workspace.enginePid()).toBeUndefined();
  });

  it("is run by the next one, when the stream could not be opened", async () => {
    await using workspace = openWorkspace();
    await workspace.ok(["create", "--name", "box"]);
    // Its socket's place is taken by one that refuses; the real one goes on and is found again.
    const path = join(workspace.stateDir, "engine.sock");
    const real = join(workspace.stateDir, "real.sock");
    renameSync(path, real);
    const server = createServer((socket) => {
      socket.on("error", () => {});
      // A whole handshake, and no answer to it.
      socket.once("data", () => {
        server.close();
        renameSync(real, path);
        socket.destroy();
      });
    });
    server.listen(path);
    await once(server, "listening");
    expect(await workspace.ok(["exec", "box", "--", "echo", "hello"])).toBe("hello\n");
  });

  it("is not run twice, when the stream broke before the command had started", async () => {
    await using workspace = openWorkspace();
    const server = createHttpServer();
    const sockets = new WebSocketServer({ server });
    let requests = 0;
    sockets.on("connection", (socket) =>
      socket.once("message", () => {
        requests += 1;
        closing.leave();
        socket.terminate();
      }),
    );
    const closing = await inPlaceOfEngine(workspace, server);
    const { code, stderr } = await workspace.warren(["exec", "box", "--", "echo", "hello"]);
    expect(code).toBe(125);
    expect(stderr).toContain("was lost");
    expect(requests).toBe(1);
    expect(workspace.enginePid()).toBeUndefined();
  });
});
