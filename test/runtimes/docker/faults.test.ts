import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { silentLogger } from "../../../src/lib/log.ts";
import { openDockerRuntime } from "../../../src/runtimes/docker/runtime.ts";
import type { DockerSettings } from "../../../src/runtimes/factory.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { processLives } from "../../../src/testing/runtime-fixture.ts";
import { within } from "../../../src/testing/wait.ts";
import { sh } from "../common/support/boxes.ts";
import { type DockerRig, openDockerRig } from "./support/open.ts";

describe("no daemon that can be used", () => {
  let dir = "";
  let servers: { close(): void }[] = [];
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "wdockerx-"));
  });
  afterEach(() => {
    for (const server of servers) server.close();
    servers = [];
    rmSync(dir, { recursive: true });
  });

  const open = (docker: DockerSettings, strict = false) =>
    openDockerRuntime({ stateDir: join(dir, "state"), ownerId: "t1", log: silentLogger, docker, strict });
  const refused = (docker: DockerSettings) =>
    within(30_000, "the refusal", expectFailure(open(docker), "runtime_unavailable", "runtime_failed"));
  const listen = async (server: Server): Promise<string> => {
    const path = join(dir, `${servers.length}.sock`);
    servers.push(server);
    server.listen(path);
    await once(server, "listening");
    return `unix://${path}`;
  };
  /** Answers each path with a body, or by a function. */
  const fake = (answers: Record<string, string>, apiVersion = "1.41") =>
    listen(
      createHttpServer((request, response) => {
        const path = (request.url ?? "").replace(/^\/v[\d.]+/, "").replace(/\?.*/, "");
        response.setHeader("api-version", apiVersion);
        response.statusCode = path in answers || path === "/_ping" ? 200 : 404;
        response.end(answers[path] ?? '{"message":"page not found"}');
      }),
    );

  it("is told with what mends it, when there is no socket or nobody listens", async () => {
    const none = await refused({ host: `unix://${dir}/none.sock` });
    expect(none.message).toContain("there is no such socket");
    expect(none.hint).toMatch(/systemctl start docker.*DOCKER_HOST/);
    const server = createServer();
    const host = await listen(server);
    writeFileSync(join(dir, "file"), "");
    for (const unused of [`unix://${dir}/file`, "tcp://127.0.0.1:1"]) {
      expect((await refused({ host: unused })).message).toContain("nothing listens there");
    }
    server.close();
    await refused({ host });
  });

  it("is one that talks garbage, never ends, or is something else", async () => {
    const garbage = await listen(createServer((socket) => socket.end("220 mail.example ESMTP\r\n")));
    expect((await refused({ host: garbage })).code).toBe("runtime_unavailable");
    const closing = await listen(createServer((socket) => socket.destroy()));
    expect((await refused({ host: closing })).code).toBe("runtime_unavailable");
    const web = await listen(createHttpServer((_, response) => response.end("<html>")));
    expect((await refused({ host: web })).message).toContain("no Docker-compatible");
    const old = await fake({}, "1.24");
    expect((await refused({ host: old })).message).toMatch(
      /too old: it speaks API 1\.24, and 1\.40 is needed/,
    );
    const odd = await fake({ "/info": '{"MemoryLimit":"yes"}', "/version": "{}" });
    expect((await refused({ host: odd })).message).toContain("not what its API promises");
    const cut = await fake({ "/info": '{"MemoryLimit":' });
    expect((await refused({ host: cut })).message).toContain("not JSON");
    const endless = await listen(
      createHttpServer((request, response) => {
        response.setHeader("api-version", "1.41");
        if (request.url === "/_ping") return response.end("OK");
        const chunk = Buffer.alloc(1 << 20, "x");
        const more = () => {
          while (response.write(chunk));
        };
        response.on("drain", more);
        more();
        return undefined;
      }),
    );
    expect((await refused({ host: endless })).message).toContain("too long");
  });

  it("is one whose words would do something to a terminal, which are cleaned", async () => {
    const host = await listen(
      createHttpServer((_, response) => {
        response.writeHead(500, { "api-version": "1.41" });
        response.end(JSON.stringify({ message: "\u001b]0;owned\u0007\u202eboom\n" }));
      }),
    );
    const { message } = await refused({ host });
    expect(message).toContain("boom");
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
    expect(message).not.toMatch(/[\u0000-\u001f\u007f\u202e]/);
  });
});

describe("a daemon that dies", () => {
  let rig: DockerRig;
  afterEach(() => rig.close());

  it("fails the calls under way and those that follow, and has lost no file when it is back", async () => {
    rig = await openDockerRig();
    const { runtime, fixture, daemon } = rig;
    const { id, pid, guest } = await fixture.box();
    await guest.writeFile("/opt/kept", Buffer.from("x"), { parents: true });
    process.kill(daemon.pid, "SIGSTOP");
    const underWay = runtime.inspect(id);
    underWay.catch(() => {}); // it is looked at below
    await daemon.kill();
    const broken = await within(10_000, "the failure", expectFailure(underWay, "runtime_unavailable"));
    expect(broken.message).toContain("it went away");
    // Nothing but lifecycle goes through the daemon.
    expect(processLives(pid)).toBe(true);
    await guest.hello();
    const lost = await fixture.spec({ image: { id: "sha256:0", reference: "x", env: {} } });
    for (const call of [
      () => runtime.inspect(id),
      () => runtime.list(),
      () => runtime.create(lost),
      () => runtime.stop(id, { timeoutMs: 1000 }),
      () => runtime.remove(id),
    ]) {
      const error = await within(10_000, "the failure", expectFailure(call(), "runtime_unavailable"));
      expect(error.hint).toContain("systemctl start docker");
    }
    await daemon.start();
    expect(await runtime.inspect(id)).toMatchObject({ id, state: "stopped" });
    expect(processLives(pid)).toBe(false);
    await expectFailure(runtime.connect(id), "guest_failed");
    await runtime.start(id);
    expect(await guest.stat("/opt/kept")).toMatchObject({ size: 1 });
    // What could not be taken back while it was away is still ours to remove.
    await runtime.remove(lost.id);
  });

  it("and keeps containers over its death keeps sandboxes", async () => {
    rig = await openDockerRig({ config: { "live-restore": true } });
    const { runtime, fixture, daemon } = rig;
    const { id, pid, guest } = await fixture.box();
    const sleeper = await guest.spawn({ argv: ["sleep", "600"], env: {}, detached: true });
    await sleeper[Symbol.asyncDispose]();
    await daemon.kill();
    await daemon.start();
    expect(await runtime.inspect(id)).toEqual({ id, state: "running", pid });
    expect(await sh({ guest }, "echo fine")).toBe("fine\n");
    await runtime.stop(id, { timeoutMs: 0 });
    await runtime.start(id);
    await guest.hello();
  });
});
