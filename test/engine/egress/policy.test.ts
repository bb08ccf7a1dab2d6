import { describe, expect, it } from "vitest";
import { internalKind } from "../../../src/engine/egress/addresses.ts";
import { compilePolicy } from "../../../src/engine/egress/policy.ts";
import { parseRule } from "../../../src/engine/egress/rules.ts";
import { parseHost } from "../../../src/lib/host-name.ts";
import { expectFailure } from "../../../src/testing/failures.ts";

describe("internal addresses", () => {
  it.each([
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.1.2.3",
    "172.31.255.255",
    "192.168.0.1",
    "169.254.169.254",
    "100.127.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "168.63.129.16",
    "198.18.0.1",
    "::1",
    "::",
    "::127.0.0.1",
    "fd00:ec2::254",
    "fe80::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:a9fe:a9fe",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::8.8.8.8",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:1234::1",
  ])("has %s", (address) => {
    expect(internalKind(address)).toBeDefined();
  });

  it.each(["8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])(
    "has not %s",
    (address) => {
      expect(internalKind(address)).toBeUndefined();
    },
  );
});

describe("hosts", () => {
  it.each([
    ["EXAMPLE.com", "example.com"],
    ["example.com.", "example.com"],
    ["bücher.example", "xn--bcher-kva.example"],
    ["xn--bcher-kva.example", "xn--bcher-kva.example"],
    ["EXAMPLE.com", "example.com"],
    ["_dmarc.example.com", "_dmarc.example.com"],
    ["localhost", "localhost"],
  ])("reads the name %s", (text, name) => {
    expect(parseHost(text)).toEqual({ kind: "name", name });
  });

  it.each([
    ["127.0.0.1", "127.0.0.1"],
    ["127.1", "127.0.0.1"],
    ["2130706433", "127.0.0.1"],
    ["0x7f000001", "127.0.0.1"],
    ["0177.0.0.1", "127.0.0.1"],
    ["0x7f.1", "127.0.0.1"],
    ["127.0.0.1.", "127.0.0.1"],
    ["[::1]", "::1"],
    ["0:0:0:0:0:0:0:1", "::1"],
    ["[::FFFF:127.0.0.1]", "::ffff:7f00:1"],
    ["①②⑦.0.0.1", "127.0.0.1"],
  ])("reads the address %s", (text, address) => {
    expect(parseHost(text)).toEqual({ kind: "address", address });
  });

  it.each([
    "",
    ".",
    "..",
    "a..b",
    "a b",
    "a\0b",
    "a/b",
    "user@host",
    "host:80",
    "-a.example",
    "%65xample.com",
    "fe80::1%eth0",
    "[::1",
    "1.2.3.4.5",
    "256.1.1.1",
    "example.com..",
    `${"a".repeat(64)}.example`,
    `${"a.".repeat(130)}example`,
  ])("reads nothing in %j", (text) => {
    expect(parseHost(text)).toBeUndefined();
  });
});

describe("rules", () => {
  it.each([
    "",
    ":443",
    "a b",
    "http://example.com",
    "example.com:0",
    "example.com:65536",
    "example.com:9-8",
    "example.com:https",
    "*.",
    "*.*.example.com",
    "ex*mple.com",
    "*example.com",
    "*.10.0.0.1",
    "10.0.0.0/33",
    "10.0.0.0/-1",
    "10.0.0.0/",
    "example.com/8",
    "fd00::/129",
    "internal:*",
    "internal:10.0.0.1",
    "internal:*.example.com",
  ])("refuses %j", async (text) => {
    await expectFailure(
      Promise.resolve().then(() => parseRule(text)),
      "invalid_request",
    );
  });

  it("says so where one is a URL", () => {
    expect(() => parseRule("https://example.com/x")).toThrow(/it is a URL/);
  });
});

describe("a policy", () => {
  const policy = compilePolicy({
    allow: [
      "example.com",
      "*.example.org:443",
      "10.1.0.0/16:5432",
      "internal:db.corp:5432",
      "[2606:4700::1111]:53",
      "ports.test:8000-8999",
    ],
    deny: ["secret.example.org", "10.1.2.0/24"],
  });
  const allows = (host: string, port: number) => policy.decide(host, port).allowed;

  it("allows what a rule names, and nothing beside it", () => {
    expect(allows("example.com", 1)).toBe(true);
    expect(allows("Example.COM.", 443)).toBe(true);
    expect(allows("www.example.com", 443)).toBe(false);
    expect(allows("example.com.evil", 443)).toBe(false);
    expect(allows("notexample.com", 443)).toBe(false);
    expect(allows("a.example.org", 443)).toBe(true);
    expect(allows("a.b.example.org", 443)).toBe(true);
    expect(allows("example.org", 443)).toBe(false);
    expect(allows("example.org.evil", 443)).toBe(false);
    expect(allows("evilexample.org", 443)).toBe(false);
    expect(allows("a.example.org", 80)).toBe(false);
    expect(allows("ports.test", 8500)).toBe(true);
    expect(allows("ports.test", 9000)).toBe(false);
    expect(allows("2606:4700:0::1111", 53)).toBe(true);
    expect(allows("8.8.8.8", 53)).toBe(false);
  });

  it("lets deny win, by name and by address", () => {
    expect(policy.decide("secret.example.org", 443)).toMatchObject({
      allowed: false,
      rule: "secret.example.org",
      reason: "denied by secret.example.org",
    });
    expect(allows("10.1.3.4", 5432)).toBe(true);
    expect(allows("10.1.2.3", 5432)).toBe(false);
    expect(allows("::ffff:10.1.2.3", 5432)).toBe(false);
    const db = { kind: "name", name: "db.corp" } as const;
    expect(policy.decideAddress(db, "10.1.2.3", 5432).allowed).toBe(false);
  });

  it("keeps an allowed name from leading to an internal address", () => {
    const host = { kind: "name", name: "example.com" } as const;
    expect(policy.decideAddress(host, "93.184.216.34", 443).allowed).toBe(true);
    for (const address of ["127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"]) {
      expect(policy.decideAddress(host, address, 443), address).toMatchObject({ allowed: false });
    }
    // Named as a network, on that port.
    expect(policy.decideAddress(host, "10.1.0.1", 5432).allowed).toBe(true);
    expect(policy.decideAddress(host, "10.1.0.1", 443).allowed).toBe(false);
    const db = { kind: "name", name: "db.corp" } as const;
    expect(policy.decideAddress(db, "10.9.9.9", 5432).allowed).toBe(true);
  });

  it("means the public internet by *", () => {
    const open = compilePolicy({ allow: ["*"], deny: ["bad.test"] });
    expect(open.decide("anything.test", 1).allowed).toBe(true);
    expect(open.decide("bad.test", 1).allowed).toBe(false);
    expect(open.decide("8.8.8.8", 53).allowed).toBe(true);
    for (const host of ["127.0.0.1", "2130706433", "0x7f.1", "[::1]", "169.254.169.254", "[::ffff:7f00:1]"]) {
      expect(open.decide(host, 80), host).toMatchObject({ allowed: false });
    }
  });

  it("denies everything when it is empty", () => {
    const none = compilePolicy({ allow: [], deny: [] });
    expect(none.decide("example.com", 443)).toMatchObject({
      allowed: false,
      reason: "no rule allows example.com:443",
    });
  });
});
