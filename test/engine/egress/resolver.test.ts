import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { createResolver } from "../../../src/engine/egress/resolver.ts";

// Names that no file has are asked of this machine's name servers: no test does that.
let dir: string;
let hosts: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "wresolve-"));
  hosts = join(dir, "hosts");
});
afterAll(() => rmSync(dir, { recursive: true }));

it("reads the hosts file as resolvers do, and again when it has changed", async () => {
  writeFileSync(
    hosts,
    "# 9.9.9.9 no.test\n10.1.2.3\tOne.test  two.test # three.test\n::1 one.test\nnonsense one.test\n",
  );
  const resolve = createResolver(hosts);
  expect(await resolve("one.test")).toEqual(["10.1.2.3", "::1"]);
  expect(await resolve("two.test")).toEqual(["10.1.2.3"]);
  writeFileSync(`${hosts}.new`, "10.9.9.9 one.test\n");
  renameSync(`${hosts}.new`, hosts);
  expect(await resolve("one.test")).toEqual(["10.9.9.9"]);
});

it("knows this host by the names that programs inside use, whatever the file says", async () => {
  writeFileSync(hosts, "10.1.2.3 host.warren.internal host.docker.internal\n");
  const resolve = createResolver(hosts);
  for (const name of ["host.warren.internal", "host.docker.internal", "host.containers.internal"]) {
    expect(await resolve(name)).toEqual(["127.0.0.1", "::1"]);
  }
});
