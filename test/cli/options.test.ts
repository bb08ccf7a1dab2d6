import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { parseLocation } from "../../src/cli/copy/location.ts";
import {
  expirySeconds,
  isolationLevel,
  nanoCpus,
  parseEnvironment,
  parseLabels,
  parseTmpfs,
  readEnvFile,
  wholeNumber,
} from "../../src/cli/options.ts";
import { UsageError } from "../../src/cli/report.ts";

afterEach(() => vi.unstubAllEnvs());

it("knows the levels of isolation", () => {
  expect(isolationLevel("gvisor")).toBe("gvisor");
  expect(() => isolationLevel("vm")).toThrow(
    expect.objectContaining({
      message: 'there is no isolation "vm"',
      hint: "choose one of: container, gvisor",
    }),
  );
});

describe("environment variables", () => {
  it("keeps values as they are and passes on our own when only a name is given", () => {
    vi.stubEnv("CLI_TEST_OWN", "mine");
    expect({ ...parseEnvironment(["A=1", "B=x=y", "C=", "CLI_TEST_OWN", "CLI_TEST_ABSENT"]) }).toEqual({
      A: "1",
      B: "x=y",
      C: "",
      CLI_TEST_OWN: "mine",
    });
    expect(JSON.stringify(parseEnvironment(["__proto__=x"]))).toBe('{"__proto__":"x"}');
    expect(() => parseEnvironment(["=x"])).toThrow(UsageError);
  });

  it("reads env files", () => {
    const dir = mkdtempSync(join(tmpdir(), "warren-env-"));
    writeFileSync(join(dir, "env"), "# comment\r\n\r\nA=1\r\n  B='2' # no comment\n");
    expect(readEnvFile(join(dir, "env"))).toEqual(["A=1", "B='2' # no comment"]);
    rmSync(dir, { recursive: true });
  });
});

it("reads labels, tmpfs mounts and numbers", () => {
  expect({ ...parseLabels(["a=b=c", "flag"]) }).toEqual({ a: "b=c", flag: "" });
  expect(() => parseLabels(["=x"])).toThrow(UsageError);
  expect(parseTmpfs("/x:64m:ro,noexec")).toEqual({ path: "/x", size: "64m", options: "ro,noexec" });
  expect(parseTmpfs("/x")).toEqual({ path: "/x", size: "64m" });
  for (const wrong of ["x:64m", "/x:0", "/x:64q", "/x:1m:ro:more"]) {
    expect(() => parseTmpfs(wrong)).toThrow(UsageError);
  }
  expect(nanoCpus("1.5")).toBe(1_500_000_000);
  for (const wrong of ["0", "-1", "1e9", "lots"]) {
    expect(() => nanoCpus(wrong)).toThrow(UsageError);
  }
  expect(wholeNumber("12")).toBe(12);
  expect(() => wholeNumber("1.5")).toThrow(UsageError);
});

it("turns expiries into what the API wants", () => {
  expect(expirySeconds("never")).toBe(-1);
  expect(expirySeconds("1.2s")).toBe(2);
  expect(expirySeconds("1d")).toBe(86_400);
  // The API reads 0 as "the server's default", which nobody who writes 0 means.
  expect(() => expirySeconds("0")).toThrow(UsageError);
});

describe("the sides of cp", () => {
  it.each([
    ["-", { kind: "stream" }],
    ["box:/etc/hosts", { kind: "sandbox", id: "box", path: "/etc/hosts" }],
    ["box:/a b:c\nd", { kind: "sandbox", id: "box", path: "/a b:c\nd" }],
    ["./box:/x", { kind: "local", path: "./box:/x" }],
    ["/abs:/x", { kind: "local", path: "/abs:/x" }],
    ["plain", { kind: "local", path: "plain" }],
  ])("reads %j", (text, location) => {
    expect(parseLocation(text)).toEqual(location);
  });

  it.each(["box:", "box:relative", ""])("refuses %j", (text) => {
    expect(() => parseLocation(text)).toThrow(UsageError);
  });
});
