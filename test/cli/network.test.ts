import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { collapse } from "../../src/cli/collapse.ts";
import { howToAllow } from "../../src/cli/network-report.ts";
import { eventually } from "../../src/testing/wait.ts";
import { mainFile, openWorkspace, run } from "./workspace.ts";

const box = openWorkspace();
const server = createServer((_request, response) => response.end("hello"));
let at: string;
beforeAll(async () => {
  // The engine that the first command starts has it too.
  box.env.GOPROXY = "https://go.corp.test";
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  at = `127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(async () => {
  server.closeAllConnections();
  server.close();
  await box[Symbol.asyncDispose]();
});

/** Asks for a URL through the proxy, and prints the status. */
const ask = [
  "perl",
  "-MIO::Socket::INET",
  "-e",
  "my ($h) = @ARGV; my $s = IO::Socket::INET->new('127.0.0.1:3128') or die; print $s qq{GET http://$h/ HTTP/1.1\\r\\nHost: $h\\r\\nConnection: close\\r\\n\\r\\n}; print +(split / /, <$s>)[1]",
];

describe("warren network", () => {
  it("does so for open network too, by address, and says what was blocked and how to allow it", async () => {
    const id = (
      await box.ok(["create", "--runtime", "oci", "--network", "open", "--network-deny", "198.51.100.7"])
    ).trim();
    // What is denied is listened to a moment after the start.
    await eventually("the record", async () =>
      (await box.ok(["network", "show", id])).includes("denied   0"),
    );
    expect(await box.ok(["network", "allow", id, "10.9.0.0/16:443"])).toBe(
      "mode     open\nallow    10.9.0.0/16:443\ndeny     198.51.100.7\ndenied   0\n",
    );
    const said = async (...args: string[]) => {
      const { stdout, stderr } = await box.warren(["network", ...args]);
      return `${stdout}${stderr}`;
    };
    expect(await said("explain", id, "10.9.1.1")).toBe("allowed: 10.9.1.1:443: allowed by 10.9.0.0/16:443\n");
    expect(await said("explain", id, "10.9.1.1:80")).toBe(
      `denied: 10.9.1.1:80: 10.9.1.1 is an internal address (private), and no rule names it\nhint: warren network allow ${id} 10.9.1.1:80\n`,
    );
    expect(await said("explain", id, "example.com")).toContain("decides on addresses");
    expect(await said("deny", id, "example.com")).toContain("names no address");
    const dial = (to: string) => ["perl", "-MIO::Socket::INET", "-e", "IO::Socket::INET->new(shift)", to];
    const blocked = (to: string, why: string, command: string) =>
      `blocked: ${to} (${why}) – allow with: warren network ${command}\n`;
    expect(await box.warren(["exec", id, "--", ...dial("10.9.1.1:80")])).toMatchObject({
      code: 0,
      stderr: blocked("10.9.1.1:80", "it leads to an internal address", `allow ${id} 10.9.1.1:80`),
    });
    expect((await box.warren(["exec", id, "--", ...dial("198.51.100.7:443")])).stderr).toBe(
      blocked("198.51.100.7:443", "denied by 198.51.100.7", `remove ${id} 198.51.100.7`),
    );
    expect(await said("log", id)).toMatch(
      /^\S+Z DENIED {2}10\.9\.1\.1:80 \(tcp\): 10\.9\.1\.1 is an internal address .*\n\S+Z DENIED {2}198\.51\.100\.7:443 \(tcp\): denied by 198\.51\.100\.7\n$/,
    );
    expect(await box.ok(["network", "set", id])).toBe("mode     open\ndenied   2\n");
    const network = ["--runtime", "oci", "--network", "open"];
    expect((await box.warren(["run", ...network, "--", ...dial("10.9.1.1:80")])).stderr).toBe(
      "blocked: 10.9.1.1:80 (it leads to an internal address) – allow with: --network-allow 10.9.1.1:80\n",
    );
    await box.ok(["rm", id]);
  });

  it("shows, changes and explains the rules of a sandbox", async () => {
    const id = (
      await box.ok(["create", "--network-preset", "registries", "--network-allow", "a.test,*.b.test:443"])
    ).trim();
    const shown = await box.ok(["network", "show", id]);
    expect(shown).toMatch(
      /^mode +filtered\nallow +preset:registries: \d+ rules?\nallow +a\.test\nallow +\*\.b\.test:443\ndecided +0 allowed, 0 denied\n$/,
    );
    expect(await box.ok(["network", "show", id, "--expand"])).toMatch(
      /^ +internal:go\.corp\.test:443 {2}\(go, GOPROXY\)$/m,
    );
    expect(JSON.parse(await box.ok(["network", "show", id, "--json"]))).toMatchObject({
      mode: "filtered",
      rules: { allow: ["preset:registries", "a.test", "*.b.test:443"] },
    });
    await box.ok(["network", "allow", id, "c.test:80", "preset:dev"]);
    await box.ok(["network", "deny", id, "x.b.test"]);
    await box.ok(["network", "remove", id, "a.test", "preset:dev"]);
    expect(JSON.parse(await box.ok(["network", "show", id, "--json"])).rules).toEqual({
      allow: ["preset:registries", "*.b.test:443", "c.test:80"],
      deny: ["x.b.test"],
    });
    const explain = async (where: string) => {
      const { stdout, stderr } = await box.warren(["network", "explain", id, where]);
      return `${stdout}${stderr}`;
    };
    expect(await explain("c.test:80")).toBe("allowed: c.test:80: allowed by c.test:80\n");
    expect(await explain("go.corp.test")).toBe(
      "allowed: go.corp.test:443: allowed by internal:go.corp.test:443 of preset:registries\n",
    );
    expect(await explain("a.test:81")).toBe(
      `denied: a.test:81: no rule allows a.test:81\nhint: warren network allow ${id} a.test:81\n`,
    );
    expect(await explain("x.b.test:443")).toBe(
      `denied: x.b.test:443: denied by x.b.test\nhint: warren network remove ${id} x.b.test\n`,
    );
    expect(await explain("[::1]:22")).toContain(`hint: warren network allow ${id} '[::1]:22'\n`);
    await box.ok(["network", "set", id, "--allow", "d.test"]);
    expect(await box.ok(["network", "show", id])).toMatch(/^mode +filtered\nallow +d\.test\ndecided/);
    const absent = await box.warren(["network", "remove", id, "a.test"]);
    expect(absent).toMatchObject({ code: 1 });
    expect(absent.stderr).toContain('there is no rule "a.test"');
    expect(absent.stderr).toContain("there are: d.test");
  });

  it("shows what was asked for, and follows it", async () => {
    const id = (await box.ok(["create", "--network-allow", at])).trim();
    expect(await box.ok(["exec", id, ...ask, at])).toBe("200");
    const denied = await box.warren(["exec", id, ...ask, "evil.test"]);
    expect(denied.stdout.toString()).toBe("403");
    expect(denied.stderr).toBe(
      `blocked: evil.test:80 (no rule allows it) – allow with: warren network allow ${id} evil.test:80\n`,
    );
    // Once: not again at the end of a command that wanted nothing.
    expect((await box.warren(["exec", id, "true"])).stderr).toBe("");
    const log = await box.ok(["network", "log", id]);
    expect(log).toMatch(
      /^\S+ allowed 127\.0\.0\.1:\d+: allowed by .*\n\S+ DENIED {2}evil\.test:80: no rule allows evil\.test:80\n$/,
    );
    expect(
      (await box.ok(["network", "log", id, "--denied", "--json"]))
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line)),
    ).toMatchObject([{ host: "evil.test", allowed: false, cause: "no_rule" }]);
    const follower = spawn(process.execPath, [mainFile, "network", "log", "-f", "--json", id], {
      env: box.env,
    });
    const lines = createInterface({ input: follower.stdout })[Symbol.asyncIterator]();
    const next = async () => JSON.parse(String((await lines.next()).value)).host;
    expect([await next(), await next()]).toEqual(["127.0.0.1", "evil.test"]);
    await box.warren(["exec", id, ...ask, "later.test"]);
    expect(await next()).toBe("later.test");
    const exit = once(follower, "exit");
    await box.ok(["rm", id]);
    expect(await exit).toEqual([0, null]);
  });

  it("learns what a command needs, and says so", async () => {
    const { code, stdout, stderr } = await box.warren([
      "run",
      "--network-learn",
      "--network-allow",
      at,
      "--",
      ...ask,
      at,
    ]);
    expect({ code, stdout: stdout.toString(), stderr }).toEqual({
      code: 0,
      stdout: "200",
      stderr: `learnt: --network-allow ${at}\n`,
    });
    const id = (await box.ok(["create", "--network-allow", `${at},other.test`])).trim();
    expect((await box.warren(["network", "learn", id])).stderr).toContain(
      "all but internal addresses is allowed",
    );
    expect(await box.ok(["network", "show", id])).toMatch(/^learn +on: /m);
    await box.ok(["exec", id, ...ask, at]);
    expect(await box.ok(["network", "learn", id, "--print"])).toBe(`${at}\n`);
    expect(await box.ok(["network", "learn", id, "--apply"])).toBe(`${at}\n`);
    expect(JSON.parse(await box.ok(["network", "show", id, "--json"])).rules).toEqual({ allow: [at] });
    expect((await box.warren(["network", "learn", id, "--stop", "--apply"])).code).toBe(2);
  });

  it("says at the end of a run what was blocked, and how another is allowed it", async () => {
    const { stderr } = await box.warren(["run", "--network", "filtered", "--", ...ask, "evil.test:8080"]);
    expect(stderr).toBe(
      "blocked: evil.test:8080 (no rule allows it) – allow with: --network-allow evil.test:8080\n",
    );
  });

  it("takes the registries of a project only when asked, as rules that can be seen", async () => {
    const project = join(box.dir, "project");
    mkdirSync(project);
    writeFileSync(join(project, ".npmrc"), "registry=https://npm.project.test/\n");
    const create = (preset: string) =>
      run(
        "/bin/sh",
        [
          "-c",
          'cd "$1"; shift; exec "$@"',
          "sh",
          project,
          process.execPath,
          mainFile,
          "create",
          "--json",
          "--network-preset",
          preset,
        ],
        box.env,
      );
    expect(JSON.parse((await create("project")).stdout.toString()).network).toEqual({
      allow: ["npm.project.test:443"],
    });
    expect(JSON.parse((await create("dev")).stdout.toString()).network).toEqual({ allow: ["preset:dev"] });
    expect(await create("absent")).toMatchObject({ code: 2 });
    const none = await box.warren(["create", "--network-preset", "project"]);
    expect(none.code).toBe(2);
  });
});

describe("hints", () => {
  const decision = { host: "a.test", port: 443, allowed: false, reason: "", cause: "no_rule" as const };
  it.each([
    [{ cause: "internal" as const }, "warren network allow box internal:a.test:443"],
    [{ cause: "internal" as const, host: "10.0.0.1" }, "warren network allow box 10.0.0.1:443"],
    [{ cause: "internal" as const, host: "fd00::1" }, "warren network allow box '[fd00::1]:443'"],
    [{ cause: "rule" as const, rule: "*.test" }, "warren network remove box '*.test'"],
    [
      { cause: "rule" as const, rule: "a.test", preset: "preset:dev" },
      "warren network remove box preset:dev",
    ],
    [{ cause: "mismatch" as const }, undefined],
    [{ allowed: true }, undefined],
    // What a sandbox says goes into nobody's shell.
    [{ host: "$(reboot)" }, undefined],
    [{ host: "a;b" }, undefined],
    [{ host: "a b" }, undefined],
  ])("for %o", (change, command) => {
    expect(howToAllow({ ...decision, ...change }, "box")).toBe(command);
  });
});

it("collapses names below one, and never below what is anybody's", () => {
  expect(
    collapse([
      "a.example.com:443",
      "b.example.com:443",
      "b.example.com:80",
      "example.com:443",
      "x.co.uk:443",
      "y.co.uk:443",
      "p.com:443",
      "q.com:443",
      "10.0.0.1:443",
      "10.0.0.2:443",
      "internal:a.corp.test:1",
    ]),
  ).toEqual([
    "*.example.com:443",
    "10.0.0.1:443",
    "10.0.0.2:443",
    "b.example.com:80",
    "example.com:443",
    "internal:a.corp.test:1",
    "p.com:443",
    "q.com:443",
    "x.co.uk:443",
    "y.co.uk:443",
  ]);
});
