import { once } from "node:events";
import { createServer as createHttpServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createNodeClient, Sandbox } from "../../src/client/node/index.ts";
import type { SandboxApi } from "../../src/contracts/api.ts";
import { type Engine, openEngine } from "../../src/engine/engine.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { type OciProgramName, ociPrograms } from "../../src/runtimes/oci/programs.ts";
import { createServer } from "../../src/server/server.ts";
import { askProxy } from "../../src/testing/api-network.ts";
import { testApi } from "../../src/testing/index.ts";
import { noGvisor } from "../runtimes/oci/support/gvisor.ts";
import { openTestRuntime, type TestRuntime } from "../runtimes/oci/support/open.ts";
import { shortForm } from "./support/short-form.ts";

const MIB = 1024 * 1024;

async function engineOn(program: OciProgramName): Promise<{ engine: Engine; test: TestRuntime }> {
  const test = await openTestRuntime(program);
  const engine = await openEngine({
    stateDir: test.stateDir,
    runtimes: { oci: test.runtime },
    defaultRuntime: "oci",
    log: silentLogger,
  });
  return { engine, test };
}

testApi("engine on oci with crun", async () => {
  const { engine, test } = await engineOn("crun");
  return {
    api: engine,
    close: async () => {
      await engine.close();
      await test.reopen();
      await test.close();
    },
  };
});

testApi(
  "over HTTP, on oci with runc",
  async () => {
    const { engine, test } = await engineOn("runc");
    const server = createServer(engine, { log: silentLogger });
    const socket = join(test.stateDir, "engine.sock");
    await server.listenUnix(socket);
    return {
      api: createNodeClient({ url: `unix:${socket}` }),
      close: async () => {
        await server.close();
        await engine.close();
        await test.reopen();
        await test.close();
      },
    };
  },
  shortForm,
);

// Its part of them is short below.
if (!noGvisor && process.env.WARREN_LONG === "1") {
  testApi(
    "engine on oci with gVisor",
    async () => {
      const { engine, test } = await engineOn("runsc");
      return {
        api: engine,
        close: async () => {
          await engine.close();
          await test.reopen();
          await test.close();
        },
      };
    },
    {
      defaults: { isolation: "gvisor" },
      only: {
        why: "what containers show as well",
        tests: [
          "adds secrets to requests to their hosts, and shows them nowhere",
          "has a sandbox trust the engine where it stands in for the host of a secret",
          "gives programs inside cloud credentials in any network, replaces them, and shows them nowhere else",
          "lets programs inside sign with an SSH agent in any network, and change nothing of it",
        ],
      },
    },
  );
}

describe("a paused sandbox", () => {
  it("is found so by the next engine, with the limits that it was given", async () => {
    const { engine: first, test } = await engineOn("crun");
    const { id } = await first.create({ memory: 64 * MIB });
    await first.update(id, { memory: 96 * MIB });
    await first.pause(id);
    await first.close();
    await test.reopen();
    const second = await openEngine({
      stateDir: test.stateDir,
      runtimes: { oci: test.runtime },
      defaultRuntime: "oci",
      log: silentLogger,
    });
    try {
      expect(await second.get(id)).toMatchObject({ status: "paused", memory: 96 * MIB });
      await expect(second.exec(id, { cmd: ["true"] })).rejects.toMatchObject({ code: "sandbox_wrong_state" });
      expect(await second.resume(id)).toMatchObject({ status: "running" });
      expect((await second.exec(id, { cmd: ["true"] })).exit_code).toBe(0);
      expect((await second.stats(id)).memory_limit).toBe(96 * MIB);
      await second.pause(id);
    } finally {
      await second.remove(id);
      await second.close();
      await test.reopen();
      await test.close();
    }
  });
});

// Only a runtime that enforces limits can show these, so they are not in the suite for all.
describe.each(ociPrograms)("memory that runs out, with %s", (program) => {
  let made: { engine: Engine; test: TestRuntime };
  let api: SandboxApi;
  // Doubles a string until the kernel steps in.
  const hog = ["perl", "-e", 'my $x = "x" x 1048576; $x .= $x while 1;'];
  beforeAll(async () => {
    made = await engineOn(program);
    api = made.engine;
  });
  afterAll(async () => {
    for (const { id } of await api.list()) await api.remove(id);
    await made.engine.close();
    await made.test.reopen();
    await made.test.close();
  });

  it("is told of a command, whose sandbox goes on", async () => {
    const { id } = await api.create({ memory: 64 * MIB });
    const result = await api.exec(id, { cmd: hog, timeout: 60 });
    expect(result).toMatchObject({ exit_code: 137, signal: "SIGKILL", oom_killed: true });
    expect(await api.exec(id, { cmd: ["echo", "still here"] })).toMatchObject({ stdout: "still here\n" });
    expect((await api.get(id)).status).toBe("running");
  });

  it("is told of the main command, and the sandbox has stopped", async () => {
    const { id } = await api.create({ memory: 64 * MIB, cmd: hog });
    await expect.poll(async () => (await api.get(id)).status, { timeout: 20_000 }).toBe("stopped");
    expect(await api.get(id)).toMatchObject({ exit_code: 137, oom_killed: true });
  });

  it("is not claimed of a command that somebody killed", async () => {
    const { id } = await api.create({ memory: 64 * MIB });
    const result = await api.exec(id, { cmd: ["sh", "-c", "kill -9 $$"] });
    expect(result).toMatchObject({ exit_code: 137, signal: "SIGKILL" });
    expect(result.oom_killed).not.toBe(true);
  });
});

describe.skipIf(noGvisor !== undefined)(
  `a sandbox with gVisor, over HTTP${noGvisor ? ` [not possible here: ${noGvisor}]` : ""}`,
  () => {
    it("has secrets added to its requests, trusts the engine, and gets out at once when the next one has found it", async () => {
      const { engine: first, test } = await engineOn("runsc");
      const heard: unknown[] = [];
      const server = createHttpServer(({ headers }, response) => {
        heard.push(headers.authorization);
        response.end(headers.authorization);
      }).listen(0, "127.0.0.1");
      await once(server, "listening");
      const { port } = server.address() as AddressInfo;
      // It has no TLS to prove itself by, which the engine says over its own.
      const nobody = createHttpServer().listen(port, "127.0.0.2");
      await once(nobody, "listening");
      const value = "a-secret-of-many";
      const hosts = [`http://127.0.0.1:${port}`, `127.0.0.2:${port}`];
      const { id } = await first.create({
        isolation: "gvisor",
        network: { allow: ["127.0.0.1", "127.0.0.2"] },
        secrets: [{ name: "TOKEN", hosts, value, header: {} }],
      });
      const ask = { cmd: ["sh", "-c", askProxy, "sh", `${hosts[0]}/`], timeout: 20 };
      const answer = expect.stringMatching(/^200 Bearer \*{16}$/);
      expect(await first.exec(id, ask)).toMatchObject({ stdout: answer });
      const own = `echo $TOKEN; exec curl -sS --noproxy "" https://127.0.0.2:${port}/`;
      expect((await first.exec(id, { cmd: ["sh", "-c", own] })).stdout).toMatch(
        /^warren-secret-[0-9a-f]{32}\n127\.0\.0\.2 does not prove to be that host/,
      );
      // To those inside a close is as a kill: whoever waited for their connections is gone.
      await first.close();
      await test.reopen();
      const second = await openEngine({
        stateDir: test.stateDir,
        runtimes: { oci: test.runtime },
        defaultRuntime: "oci",
        log: silentLogger,
      });
      try {
        expect(await second.exec(id, ask)).toMatchObject({ stdout: answer });
        expect(heard).toEqual([`Bearer ${value}`, `Bearer ${value}`]);
      } finally {
        await second.remove(id);
        await second.close();
        for (const one of [server, nobody]) one.close();
        await test.reopen();
        await test.close();
      }
    });

    it("is asked for at creation, is shown, and says that its memory ran out", async () => {
      const { engine, test } = await engineOn("runsc");
      const server = createServer(engine, { log: silentLogger });
      const socket = join(test.stateDir, "engine.sock");
      await server.listenUnix(socket);
      const connection = { client: createNodeClient({ url: `unix:${socket}` }) };
      try {
        await using box = await Sandbox.create({ isolation: "gvisor", memory: "64m" }, connection);
        expect(await box.info()).toMatchObject({ isolation: "gvisor", status: "running" });
        await expect(connection.client.update(box.id, { memory: 32 * MIB })).rejects.toMatchObject({
          code: "invalid_request",
        });
        expect((await box.exec(["dmesg"])).stdout).toContain("gVisor");
        await using hungry = await Sandbox.create({ isolation: "gvisor", memory: "64m" }, connection);
        // gVisor may refuse a program memory before the host's kernel ends them both.
        const eat = `while :; do perl -e 'my $x = "x" x 1048576; $x .= $x while 1;'; done`;
        const hog = hungry.exec(["sh", "-c", eat], { timeoutMs: 30_000 });
        await expect(hog).rejects.toMatchObject({
          code: expect.stringMatching(/guest_failed|sandbox_wrong_state/),
        });
        await expect.poll(async () => (await hungry.info()).status, { timeout: 20_000 }).toBe("stopped");
        expect(await hungry.info()).toMatchObject({
          oom_killed: true,
          error: "the kernel killed its first process for want of memory",
        });
        expect(await box.info()).toMatchObject({ status: "running" });
      } finally {
        await server.close();
        await engine.close();
        await test.reopen();
        await test.close();
      }
    });
  },
);
