import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { readEnvironment } from "../../../src/app/config.ts";
import { describeEndpoint } from "../../../src/runtimes/containers/endpoint.ts";
import { findDockerEndpoint, parseDockerHost } from "../../../src/runtimes/docker/find-endpoint.ts";
import type { DockerSettings } from "../../../src/runtimes/factory.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { createAuthority } from "../../server/certificates.ts";

const parse = (text: string) => parseDockerHost(text, { origin: "DOCKER_HOST" });

describe("an address of a Docker daemon", () => {
  it("is a socket, a TCP port, or a host that ssh goes to", () => {
    expect(parse("unix:///run/a b.sock".replace(" ", "%20"))).toMatchObject({
      kind: "unix",
      path: "/run/a%20b.sock",
    });
    expect(parse("tcp://box:2000")).toMatchObject({ kind: "tcp", host: "box", port: 2000 });
    expect(parse("tcp://[::1]")).toMatchObject({ kind: "tcp", host: "::1", port: 2375 });
    expect(parseDockerHost("tcp://box/", { origin: "x", tls: {} })).toMatchObject({ port: 2376, tls: {} });
    expect(describeEndpoint(parse("ssh://me@box.example:2222"))).toBe(
      "ssh -o ConnectTimeout=20 -o BatchMode=yes -T -l me -p 2222 -- box.example docker system dial-stdio",
    );
  });

  it.each([
    ["ssh://-oProxyCommand=id", /no name of a host/],
    ["ssh://-oProxyCommand=id@box", /no name of a user/],
    ["ssh://me:secret@box", /a password doesn't belong there/],
    ["ssh://box/run/docker.sock", /a host, and nothing after it/],
    ["ssh://box;id", /no name of a host/],
    ["ssh://$(id)@box", /no name of a user/],
    ["ssh://box box", /no address/],
    ["ssh://", /a host/],
    ["tcp://me@box", /has no user/],
    ["tcp://box:0", /a port is 1 to 65535/],
    ["tcp://box:70000", /a port is 1 to 65535/],
    ["unix://docker.sock", /not absolute/],
    ["npipe:////./pipe/docker", /npipe:\/\/ is not supported/],
    ["/var/run/docker.sock", /no address/],
    ["", /no address/],
  ])("is not %s", (text, why) => {
    expect(() => parse(text)).toThrowError(why);
    expect(() => parse(text)).not.toThrowError(/secret/);
  });
});

describe("the daemon that the docker command would use", () => {
  let dir = "";
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), "wdockercfg-"));
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  const find = (settings: Partial<DockerSettings> = {}) =>
    findDockerEndpoint({ configDir: dir, ...settings });
  const writeContext = (name: string, docker: unknown, meta: object = { Name: name }) => {
    const key = createHash("sha256").update(name).digest("hex");
    mkdirSync(join(dir, "contexts/meta", key), { recursive: true });
    writeFileSync(
      join(dir, "contexts/meta", key, "meta.json"),
      JSON.stringify({ ...meta, Endpoints: { docker } }),
    );
  };
  const choose = (name: string) =>
    writeFileSync(join(dir, "config.json"), JSON.stringify({ auths: {}, currentContext: name }));

  it("is that of DOCKER_HOST before all contexts", async () => {
    writeContext("far", { Host: "tcp://far:1" });
    choose("far");
    expect(await find({ host: "unix:///x.sock", context: "far" })).toMatchObject({
      kind: "unix",
      path: "/x.sock",
    });
    expect(await find({ context: "default" })).toMatchObject({ kind: "unix" });
    expect(await find()).toMatchObject({ kind: "tcp", host: "far", port: 1 });
  });

  it("is that of a context as the docker command writes it", async () => {
    const docker = (...args: string[]) =>
      execFileSync("docker", ["--config", dir, "context", ...args], { stdio: "pipe" });
    using authority = createAuthority();
    const { cert, key, certFile, keyFile } = authority.issue("client", "DNS:client");
    const tls = `ca=${authority.caFile},cert=${certFile},key=${keyFile}`;
    docker("create", "secured", "--docker", `host=tcp://box:2376,${tls}`);
    docker("create", "plain", "--docker", "host=ssh://box");
    docker("use", "plain");
    expect(await find()).toMatchObject({ kind: "command", argv: expect.arrayContaining(["box"]) });
    expect(await find({ context: "secured" })).toMatchObject({
      kind: "tcp",
      host: "box",
      tls: { ca: Buffer.from(authority.ca), cert: Buffer.from(cert), key: Buffer.from(key) },
    });
  });

  it("has the certificates of DOCKER_CERT_PATH, or of the configuration's directory", async () => {
    writeFileSync(join(dir, "ca.pem"), "ca");
    const host = "tcp://box";
    expect(await find({ host })).not.toHaveProperty("tls");
    expect(await find({ host, tlsVerify: "1" })).toMatchObject({
      port: 2376,
      tls: { ca: Buffer.from("ca") },
    });
    expect(await find({ host, certPath: dir })).toMatchObject({ tls: { ca: Buffer.from("ca") } });
    writeFileSync(join(dir, "cert.pem"), "cert");
    const error = await expectFailure(find({ host, certPath: dir }), "runtime_unavailable");
    expect(error.message).toContain("cert.pem and key.pem");
  });

  it("is refused for a context that isn't there, is broken, or trusts anybody", async () => {
    const missing = await expectFailure(find({ context: "gone" }), "runtime_unavailable");
    expect(missing.hint).toContain("docker context ls");
    for (const name of ["../../x", "-x", "a\nb", "a".repeat(300)]) {
      await expectFailure(find({ context: name }), "runtime_unavailable");
    }
    writeContext("trusting", { Host: "tcp://box", SkipTLSVerify: true });
    expect((await expectFailure(find({ context: "trusting" }), "runtime_unavailable")).message).toContain(
      "any certificate",
    );
    writeContext("other", { Host: "tcp://box" }, { Name: "another" });
    await expectFailure(find({ context: "other" }), "runtime_unavailable");
    writeContext("odd", { Host: 7 });
    await expectFailure(find({ context: "odd" }), "runtime_unavailable");
    writeContext("huge", { Host: `tcp://${"x".repeat(100_000)}` });
    expect((await expectFailure(find({ context: "huge" }), "runtime_unavailable")).message).toContain(
      "65536 bytes",
    );
  });

  it("is refused for a configuration that can't be read, without a word of what is in it", async () => {
    writeFileSync(join(dir, "config.json"), '{"auths":{"x":{"auth":"hunter2"}}');
    const error = await expectFailure(find(), "runtime_unavailable");
    expect(error.message).toContain("it is not JSON");
    expect(JSON.stringify([error.message, String(error.cause)])).not.toContain("hunter2");
    rmSync(join(dir, "config.json"));
    execFileSync("mkfifo", [join(dir, "config.json")]);
    expect((await expectFailure(find(), "runtime_unavailable")).message).toContain("it is no file");
  });

  it("is a rootless one where no other may be used", async () => {
    const path = join(dir, "docker.sock");
    expect(await find({ runtimeDir: dir })).toMatchObject({ path: "/var/run/docker.sock" });
    const server = createServer().listen(path);
    await new Promise((resolve) => server.once("listening", resolve));
    try {
      expect(await find({ runtimeDir: dir })).toMatchObject({ path });
      chmodSync(path, 0o600);
    } finally {
      server.close();
    }
  });
});

it("the environment's settings reach the runtime", () => {
  const { docker } = readEnvironment({
    DOCKER_HOST: "tcp://x",
    DOCKER_CONTEXT: "",
    DOCKER_CONFIG: "/cfg",
    XDG_RUNTIME_DIR: "/run/user/1",
  });
  expect(docker).toEqual({ host: "tcp://x", configDir: "/cfg", runtimeDir: "/run/user/1" });
});
