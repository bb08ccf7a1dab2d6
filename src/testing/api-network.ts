import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect } from "vitest";
import type { ApiContext, ApiFixture } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";
import { eventually } from "./wait.ts";

/** Asks the sandbox's proxy for a URL, as `$1`, and prints the status and the body. */
const ask = `exec perl -MIO::Socket::INET -e '
  my ($url) = @ARGV; my ($host) = $url =~ m{^http://([^/]*)};
  my ($at, $port) = $ENV{http_proxy} =~ m{//(.*):(\\d+)} or die "no proxy\\n";
  my $s = IO::Socket::INET->new(PeerAddr => $at, PeerPort => $port) or die "no connection\\n";
  print $s "GET $url HTTP/1.1\\r\\nHost: $host\\r\\nConnection: close\\r\\n\\r\\n";
  my $all = join "", <$s>; my ($status, $body) = $all =~ m{^HTTP/1.. (\\d+).*?\\r\\n\\r\\n(.*)}s; print "$status $body";
' "$1"`;

/** The way out of a sandbox whose network is filtered. */
export function testApiNetwork({ test, fixture }: ApiContext): void {
  const get = async ({ shell }: ApiFixture, id: string, url: string) =>
    (await shell(id, ask, { args: [url] })).stdout;

  test("lets a sandbox reach what its rules allow, and nothing else", async () => {
    await using server = await hello();
    await using other = await hello();
    const { api, box, shell } = fixture();
    const allowed = `127.0.0.1:${server.port}`;
    const created = await box({ network: { allow: [allowed] } });
    expect(created).toMatchObject({ network_mode: "filtered", network: { allow: [allowed] } });
    const { id } = created;
    expect(await get(fixture(), id, `http://${allowed}/`)).toMatch(/^200 hello/);
    expect(await get(fixture(), id, `http://127.0.0.1:${other.port}/`)).toMatch(/^403 .*no rule allows/);
    expect(other.requests()).toBe(0);
    const direct = await shell(
      id,
      'exec perl -MIO::Socket::INET -e \'print IO::Socket::INET->new($ARGV[0]) ? "open" : "shut"\' "$1"',
      {
        args: [allowed],
      },
    );
    expect(direct.stdout).toBe("shut");
    const decisions = await api.network.decisions(id);
    expect(decisions).toMatchObject([
      { host: "127.0.0.1", port: server.port, allowed: true, rule: allowed, address: "127.0.0.1" },
      { host: "127.0.0.1", port: other.port, allowed: false },
    ]);
  });

  test("changes the rules while it runs, and keeps them over stop and start", async () => {
    await using server = await hello();
    const { api, box } = fixture();
    const url = `http://127.0.0.1:${server.port}/`;
    const rule = `127.0.0.1:${server.port}`;
    const { id } = await box({ network_mode: "filtered" });
    expect(await get(fixture(), id, url)).toMatch(/^403/);
    expect(await api.network.explain(id, "127.0.0.1", server.port)).toMatchObject({ allowed: false });
    const changed = await api.network.set(id, { allow: [rule] });
    expect(changed).toMatchObject({ network: { allow: [rule] } });
    expect(await api.network.explain(id, "127.0.0.1", server.port)).toMatchObject({ allowed: true, rule });
    expect(await get(fixture(), id, url)).toMatch(/^200 hello/);
    await api.stop(id, { timeoutMs: 0 });
    await api.start(id);
    await eventually("the way out", async () => (await get(fixture(), id, url)).startsWith("200 hello"));
    await api.network.set(id, { allow: ["*"], deny: ["127.0.0.0/8"] });
    expect(await get(fixture(), id, url)).toMatch(/^403 .*denied by 127.0.0.0\/8/);
  });

  test("refuses rules that make no sense, and rules where nothing is filtered", async () => {
    const { api, box } = fixture();
    await expectFailure(box({ network: { allow: ["http://example.com"] } }), "invalid_request");
    await expectFailure(
      box({ network_mode: "none", network: { allow: ["example.com"] } }),
      "invalid_request",
    );
    const { id } = await box();
    await expectFailure(api.network.set(id, { allow: ["example.com"] }), "unsupported");
    await expectFailure(api.network.explain(id, "example.com", 443), "unsupported");
    const filtered = await box({ network_mode: "filtered" });
    await expectFailure(api.network.set(filtered.id, { deny: ["*.*.com"] }), "invalid_request");
    await expectFailure(api.network.explain(filtered.id, "example.com", 0), "invalid_request");
    expect(await api.network.decisions(filtered.id)).toEqual([]);
  });
}

async function hello(): Promise<AsyncDisposable & { port: number; requests(): number }> {
  let count = 0;
  const server = createServer((_request, response) => {
    count++;
    response.end("hello");
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    requests: () => count,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
    },
  };
}
