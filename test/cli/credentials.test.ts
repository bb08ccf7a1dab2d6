import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { untilRenewal } from "../../src/cli/credential-renewal.ts";
import { credentialsRequest, parseCredentials } from "../../src/cli/credentials.ts";
import { UsageError } from "../../src/cli/report.ts";
import { everywhere } from "./traces.ts";
import { openWorkspace } from "./workspace.ts";

const aws = { AccessKeyId: "ASIATEST", SecretAccessKey: "secret-0123456789" };

describe("--credentials", () => {
  afterEach(() => vi.unstubAllEnvs());
  const request = (...entries: string[]) => credentialsRequest(parseCredentials(entries)).credentials;

  it("reads variables, files and what commands print", () => {
    vi.stubEnv("AWS_ACCESS_KEY_ID", aws.AccessKeyId);
    vi.stubEnv("AWS_SECRET_ACCESS_KEY", aws.SecretAccessKey);
    vi.stubEnv("AWS_SESSION_TOKEN", "");
    vi.stubEnv("TOKEN", "ya29.token");
    expect(request("aws=env", "gcp=env:TOKEN,project=p-1,account=me@example.com")).toEqual({
      aws,
      gcp: { access_token: "ya29.token", project: "p-1", account: "me@example.com" },
    });
    // An engine that is started now must not inherit them.
    expect([process.env.AWS_SECRET_ACCESS_KEY, process.env.TOKEN]).toEqual([undefined, undefined]);
    const printed = (value: unknown) => `cmd:printf %s '${JSON.stringify(value)}'`;
    expect(request(`aws=${printed({ Version: 1, ...aws })}`)).toEqual({ aws: { Version: 1, ...aws } });
    const ends = "2030-01-01T00:00:00Z";
    for (const [said, told] of [
      [
        { access_token: "t", expires_in: 99.5 },
        { access_token: "t", expires_in: 99 },
      ],
      [{ credential: { access_token: "t", token_expiry: ends } }, { access_token: "t", expires_at: ends }],
      [
        { token: "t", expires_at: ends },
        { access_token: "t", expires_at: ends },
      ],
    ]) {
      expect(request(`gcp=${printed(said)}`)).toEqual({ gcp: told });
    }
    expect(request("gcp=cmd:echo t,u", "aws=cmd:echo '{}'")).toEqual({
      aws: {},
      gcp: { access_token: "t,u" },
    });
  });

  it.each([
    "aws=some-value-in-clear",
    "azure=cmd:echo some-value-in-clear",
    "gcp=env",
    "gcp=env:WARREN_NOT_THERE",
    "aws=cmd:echo some-value-in-clear",
    'gcp=cmd:echo \'{"value":"clear"}\'',
    "aws=cmd:exit 3",
    "aws=env",
  ])("refuses %j and repeats no value", (entry) => {
    vi.stubEnv("AWS_ACCESS_KEY_ID", "");
    let failure: unknown;
    try {
      request(entry);
    } catch (error) {
      failure = error;
    }
    expect(failure).toBeInstanceOf(UsageError);
    expect(String((failure as UsageError).message)).not.toContain("clear");
  });

  it("takes one of a kind", () => {
    expect(() => request("gcp=cmd:echo a", "gcp=cmd:echo b")).toThrow(UsageError);
  });

  it("is renewed long before its end, or at half of a short life", () => {
    const now = Date.now();
    const at = (seconds: number) => ({ ...aws, Expiration: new Date(now + seconds * 1000).toISOString() });
    expect(untilRenewal(at(3600), now)).toBe(45 * 60_000);
    expect(untilRenewal(at(900), now)).toBe(450_000);
    expect(untilRenewal(at(-9), now)).toBe(500);
    expect(untilRenewal(at(1e8), now)).toBe(2 ** 31 - 1);
    expect(untilRenewal(aws, now)).toBeUndefined();
    expect(untilRenewal({ access_token: "t" }, now)).toBe(600_000);
    expect(untilRenewal({ access_token: "t", expires_in: 60 }, now)).toBe(30_000);
  });
});

const ask = `curl -sS -H "Authorization: $AWS_CONTAINER_AUTHORIZATION_TOKEN" "$AWS_CONTAINER_CREDENTIALS_FULL_URI"`;

describe("credentials of a sandbox", () => {
  it("are told inside, outlive the engine, and are nowhere else to be found", {
    timeout: 120_000,
  }, async () => {
    await using space = openWorkspace({ WARREN_LOG_LEVEL: "debug" });
    const [first, second] = ["first-secret-0123456789", "second-secret-0123456789"];
    const file = join(space.dir, "aws.json");
    const write = (SecretAccessKey: string) =>
      writeFileSync(file, JSON.stringify({ ...aws, SecretAccessKey }), { mode: 0o600 });
    await space.ok(["create", "--name", "box", "--credentials", "aws=env"], {
      env: { AWS_ACCESS_KEY_ID: aws.AccessKeyId, AWS_SECRET_ACCESS_KEY: first },
    });
    const inside = ["exec", "box", "--", "sh", "-c", ask];
    expect(JSON.parse(await space.ok(inside))).toMatchObject({ SecretAccessKey: first, Token: "" });
    const shown = [
      await space.ok(["inspect", "box"]),
      await space.ok(["credentials", "ls", "box"]),
      await space.ok(["exec", "box", "--", "sh", "-c", "env; cat /proc/*/environ /proc/*/cmdline; true"]),
    ];
    const token = /AWS_CONTAINER_AUTHORIZATION_TOKEN=(\S+)/.exec(shown[2] ?? "")?.[1] ?? "";
    const all = () => [...shown, ...everywhere(space.stateDir)].join("\n");
    // The search finds what is there: what is shown for them is in the engine's database.
    expect(all()).toContain(token);
    expect(all()).not.toContain(first);

    process.kill(space.enginePid() ?? 0, "SIGKILL");
    await expect
      .poll(async () => (await space.warren(inside)).stdout.toString(), { timeout: 20_000 })
      .toContain(first);
    write(second);
    await space.ok(["credentials", "set", "box", `aws=file:${file}`, "gcp=file:/etc/hostname,project=p-1"]);
    expect(JSON.parse(await space.ok(inside))).toMatchObject({ SecretAccessKey: second });
    const listed = await space.ok(["credentials", "ls", "box"]);
    expect(listed).toMatch(/^KIND +UNTIL +PROJECT +ACCOUNT\naws +–.*\ngcp +– +p-1 +–\n$/);
    expect(await space.ok(["credentials", "rm", "box", "aws"])).toBe("aws\n");
    rmSync(file);
    for (const value of [first, second]) expect(all()).not.toContain(value);
    const audit = readFileSync(join(space.stateDir, "audit.jsonl"), "utf8");
    expect(audit).toMatch(/"type":"credentials".*"action":"create"/);
    expect(audit).toMatch(/"action":"put","kind":"aws","by":\{"via":"socket","client":"cli"/);
    expect(audit).toMatch(/"action":"remove","kind":"aws"/);
    await space.ok(["rm", "box"]);
    expect(readdirSync(join(space.stateDir, "secrets"))).toEqual(["key"]);
  });

  it("are fetched anew by an attached run before they end, which says when that fails", {
    timeout: 60_000,
  }, async () => {
    await using space = openWorkspace();
    const dir = mkdtempSync(join(tmpdir(), "warren-renewal-"));
    // Prints credentials that end in five seconds; the second time it fails.
    const command = join(dir, "fetch");
    writeFileSync(
      command,
      `n=$(cat ${dir}/n 2>/dev/null || echo 0); n=$((n + 1)); echo $n > ${dir}/n
       [ $n -lt 3 ] || exit 7
       printf '{"Version":1,"AccessKeyId":"KEY%s","SecretAccessKey":"secret","Expiration":"%s"}' $n "$(date -u -d '+5 seconds' +%FT%TZ)"`,
    );
    const until = `for i in $(seq 200); do case "$(${ask})" in *ExpiredToken*) echo over; exit;; *KEY2*) echo renewed;; esac; sleep 0.1; done | uniq`;
    const { code, stdout, stderr } = await space.warren([
      ...["run", "--credentials", `aws=cmd:sh ${command}`, "--", "sh", "-c", until],
    ]);
    expect([code, stdout.toString()]).toEqual([0, "renewed\nover\n"]);
    expect(stderr.toString()).toContain("the credentials aws could not be renewed");
    expect(stderr.toString()).toContain("exit code 7");
    rmSync(dir, { recursive: true });
  });
});
