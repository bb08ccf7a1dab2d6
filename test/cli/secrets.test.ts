import { once } from "node:events";
import { readdirSync, statSync, writeFileSync } from "node:fs";
import type { IncomingHttpHeaders } from "node:http";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { UsageError } from "../../src/cli/report.ts";
import { parseSecrets, secretsRequest } from "../../src/cli/secrets.ts";
import { createAuthority } from "../server/certificates.ts";
import { everywhere, filesBelow } from "./traces.ts";
import { openWorkspace } from "./workspace.ts";

describe("--secret", () => {
  afterEach(() => vi.unstubAllEnvs());

  it("reads a variable, a file or what a command prints", () => {
    vi.stubEnv("WARREN_TEST_SECRET", "value-of-variable");
    const name = "K";
    expect(
      secretsRequest([
        "K=env:WARREN_TEST_SECRET,host=api.test,host=*.test:8443,bearer",
        `L=cmd:printf '%s\\n' "a, b",host=http://api.test,header=X-Key: t {}, x,env=KEY`,
        "M=cmd:echo value-of-m,host=[fd00::1]:1,basic=bot",
      ]),
    ).toEqual({
      secrets: [
        { name, value: "value-of-variable", hosts: ["api.test", "*.test:8443"], header: {} },
        {
          name: "L",
          value: "a, b",
          hosts: ["http://api.test"],
          header: { name: "X-Key", template: "t {}, x" },
          env: "KEY",
        },
        { name: "M", value: "value-of-m", hosts: ["[fd00::1]:1"], basic: { username: "bot" } },
      ],
      allow: ["api.test:443", "*.test:8443", "api.test:80", "[fd00::1]:1"],
    });
    // An engine that is started now must not inherit it.
    expect(process.env.WARREN_TEST_SECRET).toBeUndefined();
  });

  it.each([
    "K=some-value-in-clear",
    "K",
    "=env:HOME,host=a.test",
    "K=env:WARREN_NOT_THERE,host=a.test",
    "K=cmd:exit 3,host=a.test",
    "K=cmd:echo some-value-in-clear,host=a.test,header=none",
    "K=cmd:echo some-value-in-clear",
  ])("refuses %j and repeats no value", (entry) => {
    let failure: unknown;
    try {
      secretsRequest([entry]);
    } catch (error) {
      failure = error;
    }
    expect(failure).toBeInstanceOf(UsageError);
    expect(String((failure as UsageError).message)).not.toContain("clear");
  });

  it("can be a value alone, for one that there is", () => {
    expect(parseSecrets(["K=cmd:echo value-of-k"])).toEqual([{ name: "K", value: "value-of-k" }]);
  });
});

describe("secrets of a sandbox", () => {
  it("are used outside, outlive the engine, and are nowhere to be found", { timeout: 120_000 }, async () => {
    using authority = createAuthority();
    const { key, cert } = authority.issue("server", "IP:127.0.0.1");
    const seen: IncomingHttpHeaders[] = [];
    const server = createServer({ key, cert }, (request, response) => {
      seen.push(request.headers);
      response.end(`you are ${request.headers.authorization} ${request.headers["x-b"]}\n`);
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
    await using space = openWorkspace({ WARREN_TRUST_FILE: authority.caFile, WARREN_LOG_LEVEL: "debug" });
    const [first, second, third] = ["first-0123456789", "second-0123456789", "third-0123456789"];
    writeFileSync(join(space.dir, "b"), `${second}\n`, { mode: 0o600 });
    writeFileSync(join(space.dir, "c"), third, { mode: 0o600 });
    const ask = ["exec", "box", "--", "curl", "-sS", "--noproxy", "", `https://${host}/`];
    const create = ["create", "--name", "box", "--secret", `A=env:MY_SECRET,host=${host},bearer`];
    await space.ok([...create, "--secret", `B=file:${join(space.dir, "b")},host=${host},header=X-B: b {}`], {
      env: { MY_SECRET: first },
    });
    expect(await space.ok(ask)).toBe(
      `you are Bearer ${"*".repeat(first.length)} b ${"*".repeat(second.length)}\n`,
    );
    expect(seen.at(-1)).toMatchObject({ authorization: `Bearer ${first}`, "x-b": `b ${second}` });

    const shown = [
      await space.ok(["inspect", "box"]),
      await space.ok(["ls", "--json"]),
      await space.ok(["secret", "ls", "box"]),
      await space.ok(["exec", "box", "--", "sh", "-c", "env; cat /proc/*/environ /proc/*/cmdline; true"]),
    ];
    const placeholder = /warren-secret-[0-9a-f]{32}/.exec(shown[3] ?? "")?.[0] ?? "";
    const all = () => [...shown, ...everywhere(space.stateDir)].join("\n");
    // The search finds what is there: what stands for the secret is in the engine's database.
    expect(filesBelow(space.stateDir).join()).toContain(placeholder);
    for (const value of [first, second]) {
      expect(all()).not.toContain(value);
      expect(all()).not.toContain(Buffer.from(value).toString("base64").slice(0, -4));
    }
    // Nor in a snapshot, and not in what is restored from it, which the secrets work in as before.
    const snapshot = (await space.ok(["snapshot", "create", "box", "--name", "one"])).trim();
    await space.ok(["snapshot", "restore", "one", "--name", "again"]);
    const inside = ["exec", "again", "--", "sh", "-c", "env; cat /proc/*/environ /proc/*/cmdline; true"];
    shown.push(await space.ok(inside), await space.ok(["snapshot", "inspect", snapshot]));
    expect(shown.at(-2)).toContain(placeholder);
    const askAgain = ["exec", "again", ...ask.slice(2)];
    expect(await space.ok(askAgain)).toContain("you are Bearer ****");
    expect(seen.at(-1)).toMatchObject({ authorization: `Bearer ${first}`, "x-b": `b ${second}` });
    for (const value of [first, second]) expect(all()).not.toContain(value);
    await space.ok(["rm", "again"]);
    for (const name of readdirSync(join(space.stateDir, "secrets"))) {
      expect(statSync(join(space.stateDir, "secrets", name)).mode & 0o077, name).toBe(0);
    }

    process.kill(space.enginePid() ?? 0, "SIGKILL");
    const { code, stdout } = await untilAnswered(() => space.warren(ask));
    expect([code, stdout.toString()]).toEqual([0, expect.stringContaining("you are Bearer ****")]);
    expect(seen.at(-1)).toMatchObject({ authorization: `Bearer ${first}`, "x-b": `b ${second}` });

    await space.ok(["secret", "set", "box", `A=file:${join(space.dir, "c")}`]);
    await space.ok(ask);
    expect(seen.at(-1)).toMatchObject({ authorization: `Bearer ${third}` });
    await space.ok(["secret", "rm", "box", "A"]);
    expect(await space.ok(["secret", "ls", "box"])).not.toContain("Bearer");
    await space.ok(ask);
    expect(seen.at(-1)).not.toHaveProperty("authorization");
    for (const value of [first, second, third]) expect(all()).not.toContain(value);
    await space.ok(["rm", "box"]);
    // The snapshot has those of then.
    await space.ok(["snapshot", "restore", snapshot, "--name", "again"]);
    await space.ok(askAgain);
    expect(seen.at(-1)).toMatchObject({ authorization: `Bearer ${first}`, "x-b": `b ${second}` });
    await space.ok(["rm", "again"]);
    expect(await space.ok(["snapshot", "rm", "one"])).toBe("one\n");
    expect(await space.ok(["snapshot", "ls", "-q"])).toBe("");
    expect(readdirSync(join(space.stateDir, "secrets")).sort()).toEqual(["authority.pem", "key"]);
    server.close();
  });
});

/** A connection to an engine that is just dying may fail. */
async function untilAnswered<T extends { code: number | null }>(ask: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    const answer = await ask();
    if (answer.code === 0 || tries === 10) return answer;
  }
}
