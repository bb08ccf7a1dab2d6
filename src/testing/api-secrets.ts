import { once } from "node:events";
import { createServer } from "node:http";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import { expect } from "vitest";
import type { ApiContext, ApiFixture } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";
import { eventually } from "./wait.ts";

const VALUE = "sk-conformance-0123456789";
const STARS = "*".repeat(VALUE.length);

/** Asks the sandbox's proxy for a URL, as `$1`, with the header `$2`, and prints the status and the body. */
export const askWithHeader = `exec perl -MIO::Socket::INET -e '
  my ($url, $header) = @ARGV; my ($host) = $url =~ m{^http://([^/]*)};
  my ($at, $port) = $ENV{http_proxy} =~ m{//(.*):(\\d+)} or die "no proxy\\n";
  my $s = IO::Socket::INET->new(PeerAddr => $at, PeerPort => $port) or die "no connection\\n";
  print $s "GET $url HTTP/1.1\\r\\nHost: $host\\r\\nConnection: close\\r\\n$header\\r\\n\\r\\n";
  my $all = join "", <$s>; my ($status, $body) = $all =~ m{^HTTP/1.. (\\d+).*?\\r\\n\\r\\n(.*)}s; print "$status $body";
' "$1" "$(eval printf %s "\\"$2\\"")"`;

/** Secrets that stay outside of a sandbox and are added to its requests. */
export function testApiSecrets({ test, fixture }: ApiContext): void {
  const get = async ({ shell }: ApiFixture, id: string, url: string, header = "X-None: 1") =>
    (await shell(id, askWithHeader, { args: [url, header] })).stdout;

  test("adds secrets to requests to their hosts, and shows them nowhere", async () => {
    await using server = await echo();
    await using other = await echo();
    const { api, box, shell } = fixture();
    const url = `http://127.0.0.1:${server.port}/`;
    const hosts = [`http://127.0.0.1:${server.port}`];
    const created = await box({
      network: { allow: ["127.0.0.1"] },
      secrets: [{ name: "API_TOKEN", hosts, value: VALUE, header: {} }],
    });
    const { id } = created;
    const told = [{ name: "API_TOKEN", hosts, header: { name: "Authorization", template: "Bearer {}" } }];
    expect(created).toMatchObject({ network_mode: "filtered", secrets: told });
    expect(await api.secrets.list(id)).toEqual(told);
    expect(await get(fixture(), id, url)).toBe(`200 Bearer ${STARS} -`);
    expect(server.seen.at(-1)).toMatchObject({ authorization: `Bearer ${VALUE}` });
    // Placeholders are replaced where they may be, and go nowhere else.
    expect(await get(fixture(), id, url, "X-Key: k $API_TOKEN")).toBe(`200 Bearer ${STARS} k ${STARS}`);
    expect(server.seen.at(-1)).toMatchObject({ "x-key": `k ${VALUE}` });
    const stray = await get(fixture(), id, `http://127.0.0.1:${other.port}/`, "X-Key: $API_TOKEN");
    expect(stray).toMatch(/^403 .*placeholder of the secret API_TOKEN/);
    expect(other.seen).toEqual([]);
    expect((await api.network.decisions(id)).at(-1)).toMatchObject({ port: other.port, allowed: false });
    const inside = await shell(
      id,
      "env; cat /proc/*/environ /proc/*/cmdline /run/warren/* 2>/dev/null | tr '\\0' '\\n'",
    );
    expect(inside.stdout).toMatch(/^API_TOKEN=warren-secret-[0-9a-f]{32}$/m);
    const everything = [
      inside.stdout,
      JSON.stringify([await api.get(id), await api.list(), await api.secrets.list(id)]),
    ];
    expect(everything.join()).not.toContain(VALUE);

    const replaced = "another-value-0123456789";
    await api.secrets.put(id, "API_TOKEN", { value: replaced });
    expect(await get(fixture(), id, url, "X-Key: $API_TOKEN")).toMatch(/^200 /);
    expect(server.seen.at(-1)).toMatchObject({ authorization: `Bearer ${replaced}`, "x-key": replaced });
    await api.secrets.put(id, "SECOND", {
      value: VALUE,
      hosts,
      header: { name: "X-Second" },
      env: "SECOND_TOKEN",
    });
    expect((await shell(id, "echo $SECOND_TOKEN")).stdout).toMatch(/^warren-secret-/);
    await api.stop(id, { timeoutMs: 0 });
    await api.start(id);
    await eventually("the way out", async () => (await get(fixture(), id, url)).startsWith("200"));
    expect(server.seen.at(-1)).toMatchObject({
      authorization: `Bearer ${replaced}`,
      "x-second": `Bearer ${VALUE}`,
    });
    const removed = await api.secrets.remove(id, "API_TOKEN");
    expect(removed.secrets).toMatchObject([{ name: "SECOND" }]);
    await get(fixture(), id, url);
    expect(server.seen.at(-1)).not.toHaveProperty("authorization");
    expect((await shell(id, 'echo "[$API_TOKEN]"')).stdout).toBe("[]\n");
  });

  test("has a sandbox trust the engine where it stands in for the host of a secret", async () => {
    // What speaks no TLS can't prove to be anybody, and the engine says so, over TLS that has to be believed.
    const nobody = createTcpServer((socket) => socket.on("error", () => {}).end("no TLS\n")).listen(
      0,
      "127.0.0.1",
    );
    await once(nobody, "listening");
    const { port } = nobody.address() as AddressInfo;
    const { api, box, shell } = fixture();
    const secrets = [{ name: "API_TOKEN", hosts: [`127.0.0.1:${port}`], value: VALUE, header: {} }];
    const checks =
      'for f in "$NODE_EXTRA_CA_CERTS" "$SSL_CERT_FILE"; do grep -c BEGIN "$f"; done | paste -sd " " -';
    try {
      for (const readonly_fs of [false, true]) {
        const { id } = await box({
          network: { allow: ["127.0.0.1"] },
          secrets,
          readonly_fs,
          cmd: ["sh", "-c", 'test -s "$NODE_EXTRA_CA_CERTS" && echo main trusts; exec sleep 600'],
        });
        const { stdout } = await shell(id, checks);
        const [own, all] = stdout.trim().split(" ").map(Number);
        expect(own).toBe(1);
        expect(all).toBeGreaterThan(1);
        let logged = "";
        for await (const { data } of api.logs(id, { until: "main trusts", timeoutS: 20 }))
          logged += Buffer.from(data).toString();
        expect(logged).toContain("main trusts");
        // Through the proxy, though it is an address of loopback.
        const curl = `command -v curl >/dev/null || exit 99; exec curl -sS --noproxy '' https://127.0.0.1:${port}/`;
        const asked = await shell(id, curl);
        if (asked.exit_code === 99) continue;
        expect([asked.stderr, asked.stdout]).toEqual([
          "",
          expect.stringContaining("does not prove to be that host"),
        ]);
      }
    } finally {
      nobody.close();
    }
  });

  test("refuses secrets that make no sense, and secrets where nothing is filtered", async () => {
    const { api, box } = fixture();
    const secret = { name: "TOKEN", hosts: ["api.test"], value: VALUE };
    for (const wrong of [
      { ...secret, name: "not a name" },
      { ...secret, value: "short" },
      { ...secret, value: `${VALUE}\r\nX-More: 1` },
      { ...secret, hosts: [] },
      { ...secret, hosts: ["*"] },
      { ...secret, hosts: ["10.0.0.0/8"] },
      { ...secret, hosts: ["api.test:1-5"] },
      { ...secret, hosts: ["*.com"] },
      { ...secret, header: { name: "Host" } },
      { ...secret, header: { template: "no place" } },
      { ...secret, header: {}, basic: { username: "me" } },
    ]) {
      const failure = await expectFailure(box({ secrets: [wrong] }), "invalid_request");
      expect(failure.message).not.toContain(wrong.value);
    }
    await expectFailure(box({ network_mode: "none", secrets: [secret] }), "invalid_request");
    await expectFailure(box({ secrets: [secret], env: { TOKEN: "x" } }), "invalid_request");
    await expectFailure(box({ secrets: [secret, secret] }), "invalid_request");
    const both = [secret, { ...secret, name: "OTHER", hosts: ["*.test", "api.test"] }];
    await expectFailure(box({ secrets: both.map((one) => ({ ...one, header: {} })) }), "invalid_request");
    const { id } = await box();
    await expectFailure(api.secrets.put(id, "TOKEN", { value: VALUE, hosts: ["api.test"] }), "unsupported");
    await expectFailure(api.secrets.list(id), "unsupported");
    const filtered = await box({ network_mode: "filtered" });
    expect(await api.secrets.list(filtered.id)).toEqual([]);
    await expectFailure(api.secrets.put(filtered.id, "TOKEN", { value: VALUE }), "invalid_request");
    await expectFailure(api.secrets.remove(filtered.id, "TOKEN"), "secret_not_found");
  });
}

/** A server that says what it was sent, and remembers. */
export async function echo(): Promise<
  AsyncDisposable & { port: number; seen: NodeJS.Dict<string | string[]>[] }
> {
  const seen: NodeJS.Dict<string | string[]>[] = [];
  const server = createServer((request, response) => {
    seen.push(request.headers);
    response.end(`${request.headers.authorization ?? "-"} ${request.headers["x-key"] ?? "-"}`);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    seen,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
    },
  };
}
