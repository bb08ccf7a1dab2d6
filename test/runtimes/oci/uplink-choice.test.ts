import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { dateOfVersion, nameServerOptions, pasta } from "../../../src/runtimes/oci/uplinks/pasta.ts";
import { interfaceWithIPv6 } from "../../../src/runtimes/oci/uplinks/sandbox-network.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { openTestRuntime } from "./support/open.ts";

const path = process.env.PATH;
let bin = "";
beforeEach(() => {
  bin = mkdtempSync(join(tmpdir(), "woci-bin-"));
  chmodSync(bin, 0o755);
  process.env.PATH = `${bin}:${path}`;
});
afterEach(() => {
  process.env.PATH = path;
  rmSync(bin, { recursive: true });
});

/** Stands before the real one, and starts no network. */
const broken = (name: string) =>
  writeFileSync(join(bin, name), `#!/bin/sh\necho "$0: out of order" >&2\nexit 1\n`, { mode: 0o755 });

/** Stands before the real one, and says that it is of this version. */
const version = (name: string, says: string) => {
  const script = `#!/bin/sh\n[ "$1" = --version ] && echo "${says}" && exit\nexec /usr/bin/${name} "$@"\n`;
  writeFileSync(join(bin, name), script, { mode: 0o755 });
};

const openBox = { network: "open" as const, reach: { rules: [], internal: ["0.0.0.0/0"] } };

it("takes the best that works, and says which it is and why no other", async () => {
  const made = await openTestRuntime("crun");
  try {
    const carried = async () =>
      (await made.runtime.probe()).findings.find(({ message }) => /open network|network open/.test(message));
    expect(await carried()).toEqual({
      level: "ok",
      message: "open network works by slirp4netns, with internal addresses held back",
    });
    broken("slirp4netns");
    version("pasta", "pasta unknown version");
    const none = await carried();
    expect(none).toMatchObject({ level: "warning", fix: expect.any(String) });
    expect(none?.message).toMatch(
      /refused: slirp4netns: a trial failed: .*out of order.*; pasta tells no version/,
    );
    version("pasta", "pasta 0.0~git20250503.587980c-2");
    expect(await carried()).toMatchObject({
      level: "ok",
      message: expect.stringMatching(/works by pasta \(slirp4netns: a trial failed: .*out of order/),
    });
    const { sh } = await made.box(openBox);
    expect(await sh("grep -c tap0 /proc/net/dev")).toBe("1\n");
  } finally {
    await made.close();
  }
});

it("takes the one that it is told to, and no other in its place", async () => {
  broken("pasta");
  const made = await openTestRuntime("crun", ".", { uplink: "pasta" });
  try {
    const error = await expectFailure(made.box(openBox), "unsupported");
    expect(error.message).toMatch(/pasta: a trial failed: .*out of order/);
    rmSync(join(bin, "pasta"));
    await made.box(openBox); // what is mended works at once
    broken("pasta");
    await made.runtime.probe();
    expect(made.runtime.capabilities.networkModes).not.toContain("open");
    expect(made.runtime.capabilities.networkMissing?.open?.why).toContain("out of order");
  } finally {
    await made.close();
  }
});

it("tells pasta of no name server where there is none that it could ask", () => {
  expect(nameServerOptions("nameserver 9.9.9.9\n")).toEqual(["--dns-forward", "10.0.2.3"]);
  expect(nameServerOptions("# nameserver 9.9.9.9\nnameserver 2620:fe::fe\n")).toEqual(["--dns", "none"]);
  expect(nameServerOptions(undefined)).toEqual(["--dns", "none"]);
});

it("knows how old a pasta is", () => {
  expect(dateOfVersion("pasta 0.0~git20250503.587980c-2\nCopyright Red Hat")).toBe(20250503);
  expect(dateOfVersion("pasta 2024_11_27.c0fbc7e")).toBe(20241127);
  expect(dateOfVersion("pasta 0^20240220.g1e6f92b-1.fc39.x86_64")).toBe(20240220);
  expect(dateOfVersion("pasta unknown version")).toBeUndefined();
});

it("gives IPv6 where this machine has an address that leads somewhere", () => {
  const of = (address: string, internal = false) => ({
    up0: [{ address, internal, netmask: "", family: "IPv6" as const, mac: "", cidr: null, scopeid: 0 }],
  });
  expect(interfaceWithIPv6(of("2a11:22::2"))).toBe("up0");
  for (const address of ["fd00::2", "fe80::1", "::1"]) expect(interfaceWithIPv6(of(address))).toBeUndefined();
  expect(pasta.command().argv).toContain("--no-map-gw");
});
