import { expect } from "vitest";
import type { ApiContext, ApiFixture } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";
import { eventually } from "./wait.ts";

/** Asks for the URL `$1` as a program inside would, with the header `$2`, and prints the status and the body. */
const ask = `exec perl -MIO::Socket::INET -e '
  my ($url, $header) = @ARGV; my ($host, $path) = $url =~ m{^http://([^/]*)(.*)};
  my $s = IO::Socket::INET->new(PeerAddr => $host) or do { print "none"; exit };
  print $s "GET $path HTTP/1.1\\r\\nHost: $host\\r\\nConnection: close\\r\\n$header\\r\\n\\r\\n";
  my ($status, $body) = join("", <$s>) =~ m{^HTTP/1.. (\\d+).*?\\r\\n\\r\\n(.*)}s; print "$status $body";
' "$1" "$2"`;
const askAws = `set -- "$AWS_CONTAINER_CREDENTIALS_FULL_URI" "Authorization: \${1:-$AWS_CONTAINER_AUTHORIZATION_TOKEN}"; ${ask}`;
const askGcp = `set -- "http://\${GCE_METADATA_HOST:-127.0.0.1:3131}/computeMetadata/v1/$1" "\${2:-Metadata-Flavor: Google}"; ${ask}`;
const TOKEN = "instance/service-accounts/default/token";
const aws = (secret: string, more = {}) => ({
  AccessKeyId: "ASIACONFORMANCE",
  SecretAccessKey: secret,
  ...more,
});
const soon = () => new Date(Date.now() + 3_600_000).toISOString();

/** Cloud credentials, where SDKs look for those of a container or a virtual machine. */
export function testApiCredentials({ test, fixture, unless }: ApiContext): void {
  const aws1 = "secret-of-aws/0123456789+one";
  const run = async ({ shell }: ApiFixture, id: string, script: string, ...args: string[]) =>
    (await shell(id, script, { args })).stdout;

  test("gives programs inside cloud credentials in any network, replaces them, and shows them nowhere else", async () => {
    const { api, box, shell } = fixture();
    const Expiration = soon();
    const gcp1 = "token-of-gcp-0123456789";
    const gcp = { access_token: gcp1, expires_in: 1800, project: "my-project", account: "me@example.com" };
    const created = await box({
      credentials: { aws: aws(aws1, { Version: 1, SessionToken: "session/1", Expiration }), gcp },
    });
    const { id } = created;
    const told = [
      { kind: "aws", expires_at: Expiration },
      { kind: "gcp", expires_at: expect.any(String), project: "my-project", account: "me@example.com" },
    ];
    expect(created).toMatchObject({ network_mode: "none", credentials: told });
    expect(await api.credentials.list(id)).toEqual(told);
    const got = await run(fixture(), id, askAws);
    expect(got.slice(0, 4)).toBe("200 ");
    expect(JSON.parse(got.slice(4))).toEqual({
      AccessKeyId: "ASIACONFORMANCE",
      SecretAccessKey: aws1,
      Token: "session/1",
      Expiration: Expiration.replace(/\.\d+Z/, "Z"),
    });
    expect(await run(fixture(), id, askAws, "wrong")).toMatch(/^401 .*AWS_CONTAINER_AUTHORIZATION_TOKEN/);
    const token = await run(fixture(), id, askGcp, TOKEN);
    expect(JSON.parse(token.slice(4))).toMatchObject({ access_token: gcp1, token_type: "Bearer" });
    expect(await run(fixture(), id, askGcp, TOKEN, "X-None: 1")).toMatch(/^403 /);
    expect(await run(fixture(), id, askGcp, "project/project-id")).toBe("200 my-project");
    const inside = await shell(
      id,
      "env; cat /proc/*/environ /proc/*/cmdline /run/warren/* 2>/dev/null | tr '\\0' '\\n'",
    );
    expect(inside.stdout).toContain("GOOGLE_CLOUD_PROJECT=my-project");
    const everything = [inside.stdout, JSON.stringify([created, await api.get(id), await api.list()])];
    for (const value of [aws1, "session/1", gcp1]) expect(everything.join()).not.toContain(value);

    const second = "secret-of-aws/0123456789+two";
    await api.credentials.put(id, "aws", aws(second));
    expect(await run(fixture(), id, askAws)).toContain(second);
    await api.credentials.put(id, "aws", aws(second, { Expiration: "2020-01-01T00:00:00Z" }));
    expect(await run(fixture(), id, askAws)).toMatch(/^403 .*ExpiredToken.*warren credentials set/);
    await api.credentials.put(id, "aws", aws(second));
    await api.stop(id, { timeoutMs: 0 });
    await api.start(id);
    expect(await run(fixture(), id, askAws)).toContain(second);
    const removed = await api.credentials.remove(id, "gcp");
    expect(removed.credentials).toEqual([{ kind: "aws" }]);
    expect(await run(fixture(), id, askGcp, TOKEN)).toMatch(/^404 .*warren credentials set/);
    expect(await run(fixture(), id, 'echo "[$GCE_METADATA_HOST]"')).toBe("[]\n");
    await expectFailure(api.credentials.remove(id, "gcp"), "credentials_not_found");
  });

  test("gives credentials to a sandbox that runs, and none to another", async () => {
    const { api, box } = fixture();
    const [{ id }, { id: other }, { id: third }] = await Promise.all([
      box(),
      box({ credentials: { aws: aws("of-the-other") } }),
      box(),
    ]);
    await api.credentials.put(id, "aws", aws(aws1));
    await api.credentials.put(id, "gcp", { access_token: "of-this-one" });
    expect(await run(fixture(), id, askAws)).toContain(aws1);
    expect(await run(fixture(), other, askAws)).toContain("of-the-other");
    // The token of one is good for nothing in another.
    const token = (await run(fixture(), id, "echo $AWS_CONTAINER_AUTHORIZATION_TOKEN")).trim();
    expect(await run(fixture(), other, askAws, token)).toMatch(/^401 /);
    expect(await run(fixture(), other, askGcp, TOKEN)).toMatch(/^404 /);
    expect(await run(fixture(), third, askGcp, TOKEN)).toBe("none");
    if (unless("pause")) return;
    // One that can't be told now is told when it goes on.
    await api.pause(third);
    await api.credentials.put(third, "gcp", { access_token: "of-a-paused-one" });
    await api.resume(third);
    await eventually("the endpoint", async () =>
      (await run(fixture(), third, askGcp, TOKEN)).includes("of-a-paused-one"),
    );
  });

  test("refuses credentials that make no sense, and a way to them from outside", async () => {
    const { api, box } = fixture();
    for (const wrong of [
      { aws: { ...aws("two words"), Version: 1 } },
      { aws: { ...aws(aws1), Expiration: "tomorrow" } },
      { gcp: { access_token: aws1, expires_in: 1, expires_at: soon() } },
      { gcp: { access_token: `${aws1}\r\nX: 1` } },
    ] as const) {
      const failure = await expectFailure(box({ credentials: wrong }), "invalid_request");
      expect(failure.message).not.toContain(aws1);
      expect(failure.message).not.toContain("two words");
    }
    const credentials = { aws: aws(aws1) };
    await expectFailure(box({ credentials, ports: [{ sandbox_port: 3131 }] }), "forbidden");
    await expectFailure(
      box({ credentials, network_mode: "host" }),
      "invalid_request",
      "unsupported",
      "forbidden",
    );
    const { id } = await box();
    await expectFailure(api.credentials.put(id, "azure" as "aws", aws(aws1)), "invalid_request");
    await expectFailure(api.credentials.put(id, "aws", { access_token: "x" }), "invalid_request");
    expect(await api.credentials.list(id)).toEqual([]);
  });
}
