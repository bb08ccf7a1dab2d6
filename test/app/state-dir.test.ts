import { chmodSync, chownSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { readApiKeyFile, readEnvironment, resolveStateDir } from "../../src/app/config.ts";
import { ownerIdOf } from "../../src/app/owner-id.ts";
import { parseServeConfig } from "../../src/app/serve-config.ts";
import { checkStateDir, engineSocket, prepareStateDir } from "../../src/app/state-dir.ts";
import { runtimes } from "../../src/runtimes/registry.ts";

let base: string;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "warren-app-"));
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

describe("the state directory", () => {
  it("is made for its owner alone", () => {
    const dir = join(base, "a/b");
    prepareStateDir(dir);
    expect(statSync(dir).mode & 0o777).toBe(0o700);
    prepareStateDir(dir);
    expect(checkStateDir(join(base, "absent"))).toBe(false);
  });

  it("is refused when others may write to it", () => {
    chmodSync(base, 0o777);
    expect(() => prepareStateDir(base)).toThrowError(expect.objectContaining({ code: "forbidden" }));
    chmodSync(base, 0o711);
    prepareStateDir(base);
  });

  it.runIf(process.getuid?.() === 0)("is refused when it is another user's [needs root to make one]", () => {
    chownSync(base, 65534, 65534);
    expect(() => checkStateDir(base)).toThrowError(expect.objectContaining({ code: "forbidden" }));
  });

  it("is refused when it is no directory or its path too long for a socket", () => {
    writeFileSync(join(base, "file"), "");
    expect(() => checkStateDir(join(base, "file"))).toThrowError(
      expect.objectContaining({ code: "not_a_directory" }),
    );
    expect(() => engineSocket(`/${"x".repeat(100)}`)).toThrowError(
      expect.objectContaining({ code: "invalid_request" }),
    );
  });
});

describe("the owner id", () => {
  it("is made once and kept", () => {
    const id = ownerIdOf(base);
    expect(id).toMatch(/^[a-z0-9]{8}$/);
    expect(ownerIdOf(base)).toBe(id);
    expect(readdirSync(base)).toEqual(["owner"]);
  });

  it("is not replaced when the file was damaged", () => {
    writeFileSync(join(base, "owner"), "");
    expect(() => ownerIdOf(base)).toThrowError(expect.objectContaining({ code: "internal" }));
  });
});

describe("settings", () => {
  const environment = (env: Record<string, string>) => readEnvironment(env);

  it("take flags before the environment before defaults", () => {
    const env = environment({
      WARREN_STATE_DIR: "/env",
      WARREN_RUNTIME: "fake",
      WARREN_DEFAULT_TIMEOUT: "1h",
    });
    expect(parseServeConfig({ stateDir: "/flag", port: "0" }, env)).toMatchObject({
      stateDir: "/flag",
      tcp: { host: "127.0.0.1", port: 0 },
      runtime: "fake",
      defaultTimeoutS: 3600,
      apiKeys: [],
    });
    expect(parseServeConfig({}, environment({ WARREN_STATE_DIR: "/env" }))).toMatchObject({
      stateDir: "/env",
      tcp: { port: 8080 },
      runtime: "oci",
    });
    expect(resolveStateDir(undefined, environment({ WARREN_STATE_DIR: "" }))).not.toBe("");
  });

  it("let sandboxes have any runtime that isolates, unless told which", () => {
    const all = Object.keys(runtimes);
    const real = all.filter((name) => name !== "fake");
    const named = (WARREN_RUNTIMES: string, flags = {}) =>
      parseServeConfig(flags, environment({ WARREN_RUNTIMES })).runtimes;
    expect(parseServeConfig({}, environment({})).runtimes).toEqual(real);
    expect(parseServeConfig({ runtime: "fake" }, environment({})).runtimes).toEqual([...real, "fake"]);
    expect(named("oci")).toEqual(["oci"]);
    expect(named("oci", { runtimes: "fake, oci" })).toEqual(["fake", "oci"]);
    expect(() => named("oci", { runtime: "fake" })).toThrowError(/default runtime fake is not among/);
    expect(() => named(" , ")).toThrowError(/default runtime oci is not among/);
    expect(() => named("oci,vm")).toThrowError(/the runtime is one of oci/);
  });

  it("tell what is wrong", () => {
    expect(() => parseServeConfig({ port: "http", runtime: "vm" }, environment({}))).toThrowError(
      /^a port is a whole number; the runtime is one of oci[\w, ]+$/,
    );
  });

  it.each(["0.0.0.0", "::", "192.0.2.1", "example.org", "[::]"])("refuse %s without keys", (host) => {
    expect(() => parseServeConfig({ host }, environment({}))).toThrowError(
      expect.objectContaining({ code: "forbidden" }),
    );
    expect(parseServeConfig({ host }, environment({ WARREN_API_KEYS: "k1,k2\nk3" })).apiKeys).toEqual([
      "k1",
      "k2",
      "k3",
    ]);
  });

  it.each(["127.0.0.1", "127.8.8.8", "::1", "localhost"])("take %s without keys", (host) => {
    expect(parseServeConfig({ host }, environment({})).tcp?.host).toBe(host);
  });

  it("never take a key source without keys for no authentication", () => {
    const file = join(base, "keys");
    writeFileSync(file, "# only a comment\n\n");
    expect(() => readApiKeyFile(file)).toThrowError(/holds no key/);
    expect(() => readApiKeyFile(join(base, "absent"))).toThrowError(/can't be read/);
    expect(() => parseServeConfig({}, environment({ WARREN_API_KEYS: " , " }))).toThrowError(/holds no key/);
    writeFileSync(file, "# keys\nalpha\n  beta\n");
    expect(readApiKeyFile(file)).toEqual(["alpha", "beta"]);
  });
});
