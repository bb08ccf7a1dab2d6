import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { silentLogger } from "../../../src/lib/log.ts";
import { createRegistryAuth } from "../../../src/runtimes/containers/images/registry-auth.ts";

let home = "";
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "wauth-"));
});
afterEach(() => rmSync(home, { recursive: true }));

const base64 = (text: string) => Buffer.from(text).toString("base64");
const file = (path: string, content: unknown) => {
  mkdirSync(dirname(join(home, path)), { recursive: true });
  writeFileSync(join(home, path), typeof content === "string" ? content : JSON.stringify(content));
};
const environment = () => ({
  HOME: home,
  XDG_RUNTIME_DIR: join(home, "run"),
  PATH: `${home}/bin:${process.env.PATH}`,
  WARREN_API_KEYS: "ours",
});
const auth = (env: NodeJS.ProcessEnv = {}) => createRegistryAuth(silentLogger, { ...environment(), ...env });
/** What an engine reads: base 64 for URLs, with padding. */
const read = (header: string | undefined) => {
  if (header === undefined) return undefined;
  expect(header).toMatch(/^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?$/);
  return JSON.parse(Buffer.from(header, "base64url").toString());
};
const forImage = async (name: string, env?: NodeJS.ProcessEnv) =>
  read((await auth(env).forImage(name))["x-registry-auth"]);

it("are those of the first file that has some, the most specific first", async () => {
  file(".docker/config.json", {
    auths: {
      "https://index.docker.io/v1/": { auth: base64("hub:a:b") },
      "quay.io": { auth: base64("docker:1") },
    },
  });
  file(".config/containers/auth.json", { auths: { "quay.io/team": { auth: base64("team:2\0\0") } } });
  expect(await forImage("docker.io/library/debian:12")).toEqual({
    ...{ username: "hub", password: "a:b", serveraddress: "https://index.docker.io/v1/" },
  });
  expect(await forImage("quay.io/other/x:1")).toMatchObject({ username: "docker", serveraddress: "quay.io" });
  expect(await forImage(`quay.io/team/x@sha256:${"a".repeat(64)}`)).toMatchObject({
    username: "team",
    password: "2",
  });
  file("run/containers/auth.json", { auths: { "quay.io": { identitytoken: "token" } } });
  expect(await forImage("quay.io/other/x:1")).toEqual({ identitytoken: "token", serveraddress: "quay.io" });
  file("only.json", { auths: { "docker.io": { username: "u", password: "p" } } });
  const only = { REGISTRY_AUTH_FILE: join(home, "only.json") };
  expect(await forImage("docker.io/library/debian:12", only)).toMatchObject({ username: "u" });
  expect(await forImage("quay.io/other/x:1", only)).toBeUndefined();
  expect(await forImage("quay.io.evil.test/other/x:1")).toBeUndefined();
});

it("come from programs, which are asked for one registry and see none of our settings", async () => {
  mkdirSync(join(home, "bin"));
  const program = `#!/bin/sh
[ -z "$WARREN_API_KEYS" ] || exit 1
read -r server
case "$server" in
  *index.docker.io*) printf '{"Username":"<token>","Secret":"t"}' ;;
  quay.io) printf '{"Username":"q","Secret":"s"}' ;;
  broken) echo 'a secret' ;;
  *) echo 'credentials not found'; exit 1 ;;
esac`;
  writeFileSync(join(home, "bin/docker-credential-one"), program, { mode: 0o755 });
  file(".docker/config.json", {
    auths: { "quay.io": {} },
    credsStore: "one",
    credHelpers: { "ghcr.io": "../../bin/sh" },
  });
  expect(await forImage("docker.io/library/debian:12")).toMatchObject({ identitytoken: "t" });
  expect(await forImage("quay.io/a/b:1")).toMatchObject({ username: "q", password: "s" });
  expect(await forImage("other.test/a/b:1")).toBeUndefined();
  expect(await forImage("broken/a/b:1")).toBeUndefined();
  expect(await forImage("ghcr.io/a/b:1")).toBeUndefined();
  expect(read((await auth().forBuild())["x-registry-config"])).toEqual({
    "quay.io": { username: "q", password: "s" },
  });
});

it("are none where a file is none, too large, or not what it should be", async () => {
  expect(await auth().forBuild()).toEqual({});
  file("good.json", { auths: { x: { auth: base64("a:b") } } });
  expect(await forImage("x/a:1", { REGISTRY_AUTH_FILE: join(home, "good.json") })).toBeDefined();
  file("array.json", "[]");
  file("half.json", '{"auths":{"x":{"auth":"');
  file("odd.json", { auths: { x: { auth: 5 } } });
  file("large.json", `${" ".repeat(1024 * 1024)}{"auths":{"x":{"auth":"${base64("a:b")}"}}}`);
  execFileSync("mkfifo", [join(home, "fifo.json")]);
  for (const name of ["array", "half", "odd", "large", "fifo", "missing"]) {
    expect(await forImage("x/a:1", { REGISTRY_AUTH_FILE: join(home, `${name}.json`) }), name).toBeUndefined();
  }
});
