import { once } from "node:events";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { connect } from "node:tls";
import { afterAll, describe, expect, it } from "vitest";
import { createAuthority } from "../server/certificates.ts";
import { serve } from "./serving.ts";
import { isAlive, openWorkspace, until } from "./workspace.ts";

describe("warren serve", () => {
  it("prints one line of JSON, serves, and leaves its sandboxes running when it ends", async () => {
    await using box = openWorkspace();
    {
      await using server = await serve(box);
      expect(server.line).toMatchObject({ auth: false, owns_engine: true, pid: server.child.pid });
      const answer = await fetch(`${server.line.url}/api/v1/health`);
      expect(await answer.json()).toMatchObject({ status: "ok" });
      await box.ok(["--server", server.line.url, "create", "--name", "kept"]);
      // The engine's own socket is the same engine.
      expect(await box.ok(["exec", "kept", "echo", "hi"])).toBe("hi\n");
      server.child.kill("SIGTERM");
      expect(await server.exit).toBe(0);
      expect(server.stdout().trim().split("\n")).toHaveLength(1);
    }
    expect(JSON.parse(await box.ok(["ls", "--json"]))).toMatchObject([{ name: "kept", status: "running" }]);
  });

  it("serves the engine that another process runs", async () => {
    await using box = openWorkspace();
    await box.ok(["create", "--name", "first"]);
    const engine = box.enginePid();
    await using server = await serve(box);
    expect(server.line.owns_engine).toBe(false);
    expect(server.stderr()).toContain("Another process runs the engine");
    expect(await box.ok(["--server", server.line.url, "ls", "-q"])).not.toBe("");
    server.child.kill("SIGINT");
    expect(await server.exit).toBe(0);
    expect(isAlive(engine as number)).toBe(true);
  });

  it("wants a key when keys are given, from a file or the environment", async () => {
    await using box = openWorkspace();
    const keyFile = join(box.dir, "keys");
    writeFileSync(keyFile, "# keys\nalpha-key\nbeta-key\n");
    chmodSync(keyFile, 0o600);
    {
      await using server = await serve(box, ["--api-key-file", keyFile]);
      expect(server.line.auth).toBe(true);
      const at = ["--server", server.line.url, "ls", "--json"];
      expect(await box.warren(at)).toMatchObject({ code: 1, stderr: expect.stringMatching(/^error: /) });
      expect((await box.warren(at, { env: { WARREN_API_KEY: "wrong" } })).code).toBe(1);
      expect(await box.ok(at, { env: { WARREN_API_KEY: "beta-key" } })).toBe("[]\n");
      expect(await box.ok(["--api-key-file", keyFile, ...at])).toBe("[]\n");
      // Whoever may open the socket needs no key.
      expect(await box.ok(["ls", "--json"])).toBe("[]\n");
      expect(server.stderr()).not.toContain("alpha-key");
    }
    await using server = await serve(box, [], { WARREN_API_KEYS: "gamma-key,delta-key" });
    expect((await box.warren(["--server", server.line.url, "ls"])).code).toBe(1);
    expect(
      await box.ok(["--server", server.line.url, "ls", "-q"], { env: { WARREN_API_KEY: "delta-key" } }),
    ).toBe("");
  });

  it("refuses an address that others can reach without keys", async () => {
    await using box = openWorkspace();
    const { code, stderr } = await box.warren(["serve", "--host", "0.0.0.0", "--port", "0"]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: refusing to listen.*\nhint: {2}.*--api-key-file/);
    expect(box.enginePid()).toBeUndefined();
  });

  it("tells that a port is taken, and lets go of everything", async () => {
    await using box = openWorkspace();
    await using other = openWorkspace();
    await using server = await serve(box);
    const { port } = new URL(server.line.url);
    const { code, stderr } = await other.warren(["serve", "--port", port]);
    expect(code).toBe(1);
    expect(stderr).toContain("in use");
    expect(other.enginePid()).toBeUndefined();
  });

  it("takes its options after the name or before it", async () => {
    await using box = openWorkspace();
    await using server = await serve(box, [
      "--state-dir",
      join(box.dir, "elsewhere"),
      "--max-sandboxes",
      "1",
    ]);
    expect(server.line.socket).toBe(join(box.dir, "elsewhere", "engine.sock"));
    const at = ["--server", `unix:${server.line.socket}`];
    await box.ok([...at, "create", "--name", "only"]);
    expect(await box.warren([...at, "create"])).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("1"),
    });
    await box.ok([...at, "rm", "only"]);
  });

  describe("with TLS", () => {
    const authority = createAuthority();
    afterAll(() => authority[Symbol.dispose]());
    const files = authority.issue("server", "IP:127.0.0.1");
    const flags = ["--tls-cert", files.certFile, "--tls-key", files.keyFile];

    it.each([["HTTP/1.1"], ["HTTP/2", "--http2"]])(
      "serves https with %s, and the CLI takes it with a CA file",
      async (_name, ...more) => {
        await using box = openWorkspace();
        await using server = await serve(box, [...flags, ...more]);
        expect(server.line.url).toMatch(/^https:\/\/127\.0\.0\.1:\d+$/);
        const at = ["--server", server.line.url];
        const stranger = await box.warren([...at, "ls"]);
        expect(stranger).toMatchObject({
          code: 1,
          stderr: expect.stringMatching(/certificate.*\nhint: {2}.*--ca-file/),
        });
        await box.ok(["--ca-file", authority.caFile, ...at, "create", "--name", "kept"]);
        expect(await box.ok([...at, "--ca-file", authority.caFile, "exec", "kept", "echo", "hi"])).toBe(
          "hi\n",
        );
        // Its certificate is of no host names for ports.
        expect(
          await box.warren([...at, "--ca-file", authority.caFile, "preview", "kept", "80"]),
        ).toMatchObject({
          code: 0,
          stderr: expect.stringMatching(/^note: by path .*without its styles.*--preview-domain.*\n$/),
        });
        for (const variable of ["WARREN_CA_FILE", "NODE_EXTRA_CA_CERTS"]) {
          expect(
            await box.ok([...at, "exec", "kept", "echo", variable], {
              env: { [variable]: authority.caFile },
            }),
          ).toBe(`${variable}\n`);
        }
        await box.ok(["rm", "kept"]);
      },
    );

    it("reads certificate and key again at SIGHUP, and keeps the old ones when they can't be used", async () => {
      await using box = openWorkspace();
      const certFile = join(box.dir, "tls.crt");
      const keyFile = join(box.dir, "tls.key");
      const place = ({ cert, key }: { cert: string; key: string }) => {
        writeFileSync(certFile, cert);
        writeFileSync(keyFile, key, { mode: 0o600 });
      };
      place(files);
      await using server = await serve(box, [], { WARREN_TLS_CERT: certFile, WARREN_TLS_KEY: keyFile });
      const subject = async () => {
        const { hostname: host, port } = new URL(server.line.url);
        const socket = connect({ host, port: Number(port), ca: authority.ca });
        await once(socket, "secureConnect");
        const { CN } = socket.getPeerCertificate().subject;
        socket.destroy();
        return CN;
      };
      expect(await subject()).toBe("server");
      place(authority.issue("renewed", "IP:127.0.0.1"));
      server.child.kill("SIGHUP");
      await until(async () => (await subject()) === "renewed", "the new certificate is served");
      place({ cert: files.cert, key: authority.issue("third", "IP:127.0.0.1").key });
      server.child.kill("SIGHUP");
      await until(() => server.stderr().includes("the old ones stay"), "the failure is logged");
      expect(await subject()).toBe("renewed");
      server.child.kill("SIGTERM");
      expect(await server.exit).toBe(0);
    });

    it("refuses files that can't be read, don't fit, or that others can read", async () => {
      await using box = openWorkspace();
      const failing = async (...args: string[]) => {
        const { code, stderr } = await box.warren(["serve", "--port", "0", ...args]);
        expect(code).toBe(1);
        return stderr;
      };
      expect(await failing("--tls-cert", files.certFile)).toContain("comes alone");
      expect(await failing("--http2")).toContain("TLS only");
      const missing = join(box.dir, "missing");
      expect(await failing("--tls-cert", missing, "--tls-key", files.keyFile)).toContain(
        "can't be read: ENOENT",
      );
      expect(await failing("--tls-cert", files.certFile, "--tls-key", authority.caFile)).toMatch(
        /others|usable/,
      );
      const other = authority.issue("other", "IP:127.0.0.1");
      expect(await failing("--tls-cert", files.certFile, "--tls-key", other.keyFile)).toContain(
        "is not that of",
      );
      expect(await failing("--tls-cert", files.keyFile, "--tls-key", files.keyFile)).toContain(
        "no usable certificate",
      );
      const open = join(box.dir, "open.key");
      writeFileSync(open, files.key);
      chmodSync(open, 0o644);
      expect(await failing("--tls-cert", files.certFile, "--tls-key", open)).toMatch(
        /others can read.*\nhint: .*chmod/,
      );
      expect(await failing(...flags, "--host", "0.0.0.0")).toContain("without authentication");
      expect(box.enginePid()).toBeUndefined();
    });
  });
});
