import { once } from "node:events";
import { createServer } from "node:http";
import { type AddressInfo, createServer as createTcpServer, type Socket } from "node:net";
import { networkInterfaces } from "node:os";
import { expect } from "vitest";
import type { ApiContext, ApiFixture } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";
import { eventually } from "./wait.ts";

/** Asks the sandbox's proxy for a URL, as `$1`, and prints the status and the body. */
export const askProxy = `exec perl -MIO::Socket::INET -e '
  my ($url) = @ARGV; my ($host) = $url =~ m{^http://([^/]*)};
  my ($at, $port) = $ENV{http_proxy} =~ m{//(.*):(\\d+)} or die "no proxy\\n";
  my $s = IO::Socket::INET->new(PeerAddr => $at, PeerPort => $port) or die "no connection\\n";
  print $s "GET $url HTTP/1.1\\r\\nHost: $host\\r\\nConnection: close\\r\\n\\r\\n";
  my $all = join "", <$s>; my ($status, $body) = $all =~ m{^HTTP/1.. (\\d+).*?\\r\\n\\r\\n(.*)}s; print "$status $body";
' "$1"`;

/** Connects to the host `$1` and port `$2` as a program that knows no proxy; prints an answer's body, or `shut`. */
const bare = `exec perl -MIO::Socket::INET -e '
  my ($host, $port) = @ARGV;
  my $s = IO::Socket::INET->new(PeerAddr => $host, PeerPort => $port) or do { print "shut"; exit };
  print $s "GET / HTTP/1.1\\r\\nHost: $host:$port\\r\\nConnection: close\\r\\n\\r\\n";
  my $all = join "", <$s>; print $all =~ m{^HTTP/1.. 200 .*?\\r\\n\\r\\n(?:5\\r\\n)?(hello)}s ? $1 : "shut";
' "$1" "$2"`;

/** Opens `$2` tunnels to port `$1` of 127.0.0.1 at once, says something different on each, and ends its direction of them. */
const tunnels = `exec perl -MIO::Socket::INET -e '
  my ($to, $count) = @ARGV; my ($at, $port) = $ENV{http_proxy} =~ m{//(.*):(\\d+)} or die "no proxy\\n"; my ($same, $ended) = (0, 0);
  my @all = map { IO::Socket::INET->new(PeerAddr => $at, PeerPort => $port) or die "no connection: $!\\n" } 1 .. $count;
  for my $s (@all) { syswrite $s, "CONNECT 127.0.0.1:$to HTTP/1.1\\r\\nHost: 127.0.0.1:$to\\r\\n\\r\\n" }
  for my $s (@all) { my $head = ""; while ($head !~ /\\r\\n\\r\\n/) { sysread $s, $head, 1, length $head or die "no tunnel: $head\\n" } }
  for my $i (0 .. $#all) { syswrite $all[$i], "!number $i\\n" }
  for my $i (0 .. $#all) { my $line = readline $all[$i]; $same++ if $line eq "!number $i\\n" }
  shutdown $_, 1 for @all;
  for my $s (@all) { $ended++ unless defined readline $s }
  print "$same of $count, ended $ended";
' "$@"`;

/** The way out of a sandbox whose network is filtered. */
export function testApiNetwork({ test, fixture }: ApiContext): void {
  const get = async ({ shell }: ApiFixture, id: string, url: string) =>
    (await shell(id, askProxy, { args: [url] })).stdout;

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

  test("lets programs that know no proxy reach what its rules allow, by name and by address", async () => {
    await using server = await hello();
    const { api, box, shell } = fixture();
    // Of this machine, since nobody else is sure to be there; none of loopback, which is the sandbox's own inside.
    const ours = Object.values(networkInterfaces())
      .flat()
      .find((one) => one?.family === "IPv4" && !one.internal)?.address;
    await using there = ours === undefined ? undefined : await hello(ours);
    const allow = [
      `internal:host.warren.internal:${server.port}`,
      ...(there ? [`${ours}:${there.port}`] : []),
    ];
    const { id } = await box({ network: { allow } });
    await eventually("what the guest says", async () => (await api.network.get(id)).captures !== undefined);
    const { captures } = await api.network.get(id);
    const direct = async (host: string, port: number) =>
      (await shell(id, bare, { args: [host, String(port)] })).stdout;
    const reached = captures ? "hello" : "shut";
    expect(await direct("host.warren.internal", server.port)).toBe(reached);
    if (there && ours) expect(await direct(ours, there.port)).toBe(reached);
    expect(await direct("elsewhere.example", server.port)).toBe("shut");
    expect(await direct("192.0.2.77", 80)).toBe("shut");
    if (!captures) return;
    // Every name has an address inside, so a suffix tried first would be believed.
    expect((await shell(id, "cat /etc/resolv.conf")).stdout.replace(/^#.*\n|^\n/gm, "")).toBe(
      "nameserver 127.0.0.1\noptions ndots:0\n",
    );
    expect(await direct("host", server.port)).toBe("shut");
    expect(await api.network.decisions(id)).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ host: "elsewhere.example", port: server.port, allowed: false }),
        expect.objectContaining({ host: "192.0.2.77", port: 80, allowed: false }),
        expect.objectContaining({ host: "host", port: server.port, allowed: false }),
      ]),
    );
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

  test("adds rules and takes them away, one by one and of presets", async () => {
    await using server = await hello();
    const { api, box } = fixture();
    const rule = `127.0.0.1:${server.port}`;
    const url = `http://${rule}/`;
    const { id } = await box({ network: { allow: ["preset:dev"] } });
    expect(await api.network.explain(id, "github.com", 443)).toMatchObject({
      allowed: true,
      cause: "rule",
      rule: "github.com:443",
      preset: "preset:dev",
    });
    expect(await api.network.explain(id, "github.com", 80)).toMatchObject({
      allowed: false,
      cause: "no_rule",
    });
    const more = await api.network.change(id, { allow: [rule, "preset:dev"], deny: ["github.com"] });
    expect(more.network).toEqual({ allow: ["preset:dev", rule], deny: ["github.com"] });
    expect(await get(fixture(), id, url)).toMatch(/^200 hello/);
    await expectFailure(api.network.change(id, { remove: ["absent.example"] }), "invalid_request");
    await expectFailure(api.network.change(id, {}), "invalid_request");
    await expectFailure(api.network.change(id, { allow: ["preset:absent"] }), "invalid_request");
    const state = await api.network.get(id);
    expect(state).toMatchObject({ mode: "filtered", rules: more.network, counts: { allowed: 1, denied: 0 } });
    expect(state.presets.dev).toContainEqual({ rule: "github.com:443", from: "code hosts" });
    const less = await api.network.change(id, { remove: [rule, "github.com"] });
    expect(less.network).toEqual({ allow: ["preset:dev"] });
    expect(await get(fixture(), id, url)).toMatch(/^403/);
    const { id: closed } = await box();
    expect(await api.network.get(closed)).toMatchObject({ mode: "none", rules: {}, presets: {} });
  });

  test("learns what a sandbox wants, and lets it have nothing internal meanwhile", async () => {
    await using server = await hello();
    await using other = await hello();
    const { api, box } = fixture();
    const named = `internal:localhost:${server.port}`;
    const { id } = await box({ network: { allow: [named], deny: ["denied.example"], learn: true } });
    expect(await api.network.get(id)).toMatchObject({ rules: { learn: true }, learnt: [] });
    expect(await get(fixture(), id, `http://localhost:${server.port}/`)).toMatch(/^200 hello/);
    for (const host of ["localhost", "127.0.0.1", "2130706433"]) {
      expect(await get(fixture(), id, `http://${host}:${other.port}/`)).toMatch(/^403 .*internal address/);
    }
    expect(await get(fixture(), id, "http://denied.example/")).toMatch(/^403 .*denied by/);
    expect(other.requests()).toBe(0);
    expect(await api.network.explain(id, "anything.example", 1)).toMatchObject({
      allowed: true,
      cause: "learn",
    });
    expect((await api.network.get(id)).learnt).toEqual([named]);
    await api.stop(id, { timeoutMs: 0 });
    expect((await api.network.get(id)).learnt).toEqual([named]);
    await api.start(id);
    const ended = await api.network.change(id, { learn: false });
    expect(ended.network).toEqual({ allow: [named], deny: ["denied.example"] });
    expect(await api.network.explain(id, "anything.example", 1)).toMatchObject({ allowed: false });
    expect((await api.network.get(id)).learnt).toEqual([named]);
    await api.network.change(id, { learn: true });
    expect((await api.network.get(id)).learnt).toEqual([]);
  });

  test("tells decisions as events, equal ones by their number", async () => {
    const { api, box } = fixture();
    const { id } = await box({ network_mode: "filtered" });
    const stop = new AbortController();
    const events = api.events({ sandbox: id, types: ["network", "updated"], signal: stop.signal });
    const reader = events[Symbol.asyncIterator]();
    const first = reader.next();
    // Over HTTP it takes a moment until somebody listens.
    await eventually("the first event", async () => {
      await api.network.set(id, { deny: ["a.example"] });
      return await Promise.race([first, new Promise((resolve) => setTimeout(resolve, 50))]);
    });
    const denied = reader.next().then(async function next(event): Promise<typeof event> {
      return event.done || event.value.type === "network" ? event : next(await reader.next());
    });
    for (const _ of [1, 2, 3]) await get(fixture(), id, "http://a.example/");
    expect((await denied).value).toMatchObject({
      type: "network",
      sandbox: { id },
      decision: { host: "a.example", port: 80, allowed: false, cause: "rule", rule: "a.example" },
    });
    expect(await api.network.decisions(id)).toMatchObject([{ host: "a.example", count: 3 }]);
    stop.abort();
    await reader.return?.();
    const absent = Promise.resolve().then(() => drain(api.events({ sandbox: "absent-sandbox" })));
    await expectFailure(absent, "sandbox_not_found");
  });

  test("carries hundreds of connections at once, each to its own end", async () => {
    await using server = await echoing();
    const { box, shell } = fixture();
    const { id } = await box({ network: { allow: [`127.0.0.1:${server.port}`] } });
    const { stdout, stderr } = await shell(id, tunnels, { args: [String(server.port), "300"] });
    expect({ stdout, stderr }).toEqual({ stdout: "300 of 300, ended 300", stderr: "" });
    expect(server.most()).toBe(300);
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

async function drain(events: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of events);
}

async function echoing(): Promise<AsyncDisposable & { port: number; most(): number }> {
  const sockets = new Set<Socket>();
  let most = 0;
  const server = createTcpServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    most = Math.max(most, sockets.size);
    socket.on("error", () => {}).once("close", () => sockets.delete(socket));
    socket.pipe(socket);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    most: () => most,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

async function hello(address = "127.0.0.1"): Promise<AsyncDisposable & { port: number; requests(): number }> {
  let count = 0;
  const server = createServer((_request, response) => {
    count++;
    response.end("hello");
  }).listen(0, address);
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
