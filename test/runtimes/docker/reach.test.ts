import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { silentLogger } from "../../../src/lib/log.ts";
import { createApiClient } from "../../../src/runtimes/containers/api-client.ts";
import { readDaemon } from "../../../src/runtimes/docker/daemon.ts";
import { openDockerRuntime } from "../../../src/runtimes/docker/runtime.ts";
import type { DockerSettings } from "../../../src/runtimes/factory.ts";
import { openService } from "../../../src/runtimes/podman/service.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { runtimeFixture } from "../../../src/testing/runtime-fixture.ts";
import { eventually } from "../../../src/testing/wait.ts";
import { allPids, commandOf } from "../../crash/support/host.ts";
import { type Authority, createAuthority } from "../../server/certificates.ts";
import { sh } from "../common/support/boxes.ts";
import { makeStorage, testImage } from "../podman/support/storage.ts";
import { type DockerRig, IMAGE, openDockerRig } from "./support/open.ts";

/** Of the daemon, in its own network namespace. */
const TLS_PORT = 2376;

describe("a daemon that listens on TCP", () => {
  let rig: DockerRig;
  let authority: Authority;
  let stranger: Authority;
  let certs: Record<"client" | "unknown" | "none", string>;
  let server: Server;

  beforeAll(async () => {
    authority = createAuthority();
    stranger = createAuthority();
    const daemon = authority.issue("daemon", "IP:127.0.0.1,DNS:localhost");
    const dirOf = (ca: Authority, signer?: Authority) => {
      const dir = mkdtempSync(join(tmpdir(), "wdockert-"));
      writeFileSync(join(dir, "ca.pem"), ca.ca);
      const identity = signer?.issue("client", "DNS:client");
      if (identity) {
        writeFileSync(join(dir, "cert.pem"), identity.cert);
        writeFileSync(join(dir, "key.pem"), identity.key);
      }
      return dir;
    };
    certs = {
      client: dirOf(authority, authority),
      unknown: dirOf(authority, stranger),
      none: dirOf(stranger),
    };
    rig = await openDockerRig({
      hosts: [`tcp://127.0.0.1:${TLS_PORT}`],
      config: {
        tlsverify: true,
        tlscacert: authority.caFile,
        tlscert: daemon.certFile,
        tlskey: daemon.keyFile,
      },
    });
    server = await forward(rig, TLS_PORT);
  });
  afterAll(async () => {
    server.close();
    for (const dir of Object.values(certs)) rmSync(dir, { recursive: true });
    authority[Symbol.dispose]();
    stranger[Symbol.dispose]();
    await rig.close();
  });

  const settings = (certPath?: string, host = "127.0.0.1"): DockerSettings => ({
    host: `tcp://${host}:${(server.address() as AddressInfo).port}`,
    ...(certPath === undefined ? {} : { certPath }),
  });
  const open = (docker: DockerSettings) =>
    openDockerRuntime({ stateDir: rig.stateDir, ownerId: "tcp", log: silentLogger, docker });

  it("has sandboxes for who has its certificates", async () => {
    const runtime = await open(settings(certs.client));
    const fixture = runtimeFixture(runtime, { image: IMAGE, isolation: "container" });
    try {
      expect(await sh(await fixture.box(), "echo fine")).toBe("fine\n");
      const { findings } = await runtime.probe();
      expect(findings.map(({ message }) => message).join()).not.toContain("neither encrypted");
    } finally {
      await fixture.clean();
      await runtime.close();
    }
  });

  it("is refused without its certificates, with an authority that did not sign it, and in plain", async () => {
    const unsigned = await expectFailure(open(settings(certs.none)), "runtime_unavailable");
    expect(unsigned.hint).toContain("ca.pem");
    // The daemon turns a stranger away after the handshake.
    await expectFailure(open(settings(certs.unknown)), "runtime_unavailable");
    // What answers there to plain HTTP is no API.
    await expectFailure(open(settings()), "runtime_unavailable", "runtime_failed");
  });

  it("is refused under a name that its certificate does not have", async () => {
    const named = settings(certs.client, "127.0.0.2");
    expect((await expectFailure(open(named), "runtime_unavailable")).hint).toContain("ca.pem");
  });
});

describe("a daemon that does not see our files", () => {
  it("is reached by what it executes, and asked through a command where it is far", async () => {
    const rig = await openDockerRig();
    try {
      const argv = ["docker", "--host", rig.daemon.url, "system", "dial-stdio"] as const;
      const client = createApiClient({ kind: "command", argv });
      expect(await readDaemon(client)).toMatchObject({
        isPodman: false,
        hasSeccomp: true,
        storageDriver: "overlay2",
      });
      // On a connection that was kept.
      expect(await client.json({ path: "/version" })).toMatchObject({ Os: "linux" });
      client.close();
      // A mount of this daemon's own hides the state directory from it, as a virtual machine's would.
      const stateDir = mkdtempSync(join(tmpdir(), "wdockerh-"));
      try {
        const { pid } = rig.daemon;
        await promisify(execFile)("nsenter", [
          "-t",
          String(pid),
          "-m",
          "mount",
          "-t",
          "tmpfs",
          "none",
          stateDir,
        ]);
        const docker = { host: rig.daemon.url };
        const runtime = await openDockerRuntime({ stateDir, ownerId: "far", log: silentLogger, docker });
        const fixture = runtimeFixture(runtime, { image: IMAGE, isolation: "container" });
        try {
          const box = await fixture.box({ readonlyRoot: true });
          expect(await sh(box, "echo fine; cat /proc/1/comm")).toBe("fine\nguest\n");
          await runtime.stop(box.id, { timeoutMs: 2000 });
          await runtime.start(box.id);
          expect(await sh(box, "echo again")).toBe("again\n");
        } finally {
          await fixture.clean();
          await runtime.close();
        }
        expect(await rig.daemon.cli("volume", "ls", "-q")).toBe("");
      } finally {
        rmSync(stateDir, { recursive: true });
      }
    } finally {
      await rig.close();
    }
  });
});

describe("Podman, by Docker's API", () => {
  it("has sandboxes as well", async () => {
    const storage = makeStorage();
    const stateDir = mkdtempSync(join(tmpdir(), "wdockerp-"));
    // The storage is told by the environment.
    const service = await openService({
      dir: join(stateDir, "podman"),
      env: process.env as Record<string, string>,
    });
    const { endpoint } = service;
    const host = endpoint.kind === "unix" ? `unix://${endpoint.path}` : "";
    try {
      await service.revive();
      const runtime = await openDockerRuntime({
        stateDir,
        ownerId: "pd",
        log: silentLogger,
        docker: { host },
      });
      const fixture = runtimeFixture(runtime, { image: testImage, isolation: "container" });
      try {
        expect((await runtime.probe()).version).toMatch(/^podman \d/);
        const box = await fixture.box({ limits: { memoryBytes: 64 << 20, cpuNano: 0, pids: 50 } });
        const status = await sh(box, "cat /proc/self/status");
        expect(status).toMatch(/^Seccomp:\t2$/m);
        expect(status).toMatch(/^NoNewPrivs:\t1$/m);
        expect((await runtime.stats(box.id)).memory_limit).toBe(64 << 20);
        await runtime.stop(box.id, { timeoutMs: 1000 });
        expect(await runtime.inspect(box.id)).toEqual({ id: box.id, state: "stopped" });
      } finally {
        await fixture.clean();
        expect(await runtime.list()).toEqual([]);
        await runtime.close();
      }
    } finally {
      await service.close();
      rmSync(stateDir, { recursive: true });
      // Podman tidies up beside its answers.
      await eventually("Podman to be done", () =>
        allPids().every((pid) => !commandOf(pid).includes(storage.dir)),
      );
      storage.remove();
    }
  });
});

/** A port of ours whose connections lead to one in the daemon's network namespace. */
async function forward(rig: DockerRig, port: number): Promise<Server> {
  const server = createServer((socket) => {
    const argv = ["-t", String(rig.daemon.pid), "-n", "/bin/busybox", "nc", "127.0.0.1", String(port)];
    const child = spawn("nsenter", argv, { stdio: ["pipe", "pipe", "ignore"] });
    for (const stream of [socket, child.stdin]) stream.on("error", () => {}); // the other end tells
    socket.pipe(child.stdin);
    child.stdout.pipe(socket);
    socket.once("close", () => child.kill());
  });
  server.listen(0);
  await once(server, "listening");
  return server;
}
