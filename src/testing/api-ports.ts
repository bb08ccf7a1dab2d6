import { createSocket } from "node:dgram";
import { on, once } from "node:events";
import { type AddressInfo, connect, createServer } from "node:net";
import { expect } from "vitest";
import type { ApiContext, ApiFixture } from "./api-fixture.ts";
import { askProxy } from "./api-network.ts";
import { expectFailure } from "./failures.ts";
import { quietPort } from "./ports.ts";
import { eventually, within } from "./wait.ts";

/** Answers each connection, when its client has ended, with the number of its bytes and the first ones in upper case. */
export const countingServer = `use IO::Socket::INET; $SIG{CHLD} = "IGNORE";
my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], Listen => 64, ReuseAddr => 1) or die;
while (my $c = $s->accept) {
  next if fork;
  my $all = "";
  while (sysread($c, my $piece, 65536)) { $all .= $piece }
  print $c length($all), " ", uc(substr($all, 0, 20));
  exit;
}`;

/** Answers each datagram in upper case, with the port that it came from. */
const echoingServer = `use IO::Socket::INET;
my $s = IO::Socket::INET->new(Proto => "udp", LocalAddr => "127.0.0.1", LocalPort => $ARGV[0]) or die;
while (defined $s->recv(my $m, 65536)) { $s->send(uc(substr($m, 0, 100)) . " " . length($m) . " " . $s->peerport) }`;

/** Ports of a sandbox that are reached from outside. */
export function testApiPorts({ test, fixture, unless }: ApiContext): void {
  const serve = async ({ shell }: ApiFixture, id: string, port: number, program = countingServer) => {
    await shell(id, 'perl -e "$1" "$2" >/dev/null 2>&1 </dev/null &', {
      args: [program, String(port)],
    });
  };

  test("publishes ports though there is no network, with half-close, over stop and start", async () => {
    const { api, box } = fixture();
    const created = await box({
      network_mode: "none",
      ports: [{ sandbox_port: 8000, host_port: await quietPort() }],
    });
    const { id } = created;
    const [port] = created.ports ?? [];
    expect(port).toEqual({
      sandbox_port: 8000,
      host_port: expect.any(Number),
      protocol: "tcp",
      address: "127.0.0.1",
      state: "open",
    });
    const hostPort = port?.host_port ?? 0;
    expect(hostPort).toBeGreaterThan(0);
    // Nobody listens inside yet.
    expect(await within(10_000, "a refusal", exchange(hostPort, "x"))).toBe("ECONNRESET");
    await serve(fixture(), id, 8000);
    const answer = await eventually(
      "a server inside",
      async () => /^\d/.exec(await exchange(hostPort, "hello")) && (await exchange(hostPort, "hello")),
    );
    expect(answer).toBe("5 HELLO");
    const large = "abc".repeat(2_000_000);
    expect(await exchange(hostPort, large)).toBe(`6000000 ${large.slice(0, 20).toUpperCase()}`);

    expect((await api.stop(id, { timeoutMs: 0 })).ports).toEqual([{ ...port, state: "closed" }]);
    expect(await exchange(hostPort, "x")).toBe("ECONNREFUSED");
    expect((await api.start(id)).ports).toEqual([port]);
    expect(await exchange(hostPort, "x")).toBe("ECONNRESET");
    await api.remove(id);
    expect(await exchange(hostPort, "x")).toBe("ECONNREFUSED");
  });

  test("publishes and takes back ports while it runs", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    expect(await api.ports.list(id)).toEqual([]);
    await serve(fixture(), id, 8000);
    const added = await api.ports.add(id, { sandbox_port: 8000, host_port: await quietPort() });
    expect(await api.ports.list(id)).toEqual([added]);
    expect((await api.get(id)).ports).toEqual([added]);
    await eventually("a server inside", async () => (await exchange(added.host_port, "ab")) === "2 AB");
    const open = connect(added.host_port, "127.0.0.1");
    open.on("error", () => {});
    await once(open, "connect");
    const gone = new Promise((resolve) => open.once("close", resolve));
    await api.ports.remove(id, { sandboxPort: 8000 });
    await within(10_000, "the end of an open connection", gone);
    expect(await exchange(added.host_port, "x")).toBe("ECONNREFUSED");
    await expectFailure(api.ports.remove(id, { sandboxPort: 8000 }), "port_not_found");
    await expectFailure(api.ports.add("no-such-sandbox", { sandbox_port: 1 }), "sandbox_not_found");
  });

  test("publishes UDP, each client apart from the others", async () => {
    const { api, box } = fixture();
    const { id, ports } = await box({ ports: [{ sandbox_port: 5300, protocol: "udp" }] });
    const [port] = ports ?? [];
    expect(port).toMatchObject({ protocol: "udp", state: "open" });
    const hostPort = port?.host_port ?? 0;
    await expectFailure(
      box({ ports: [{ sandbox_port: 1, host_port: hostPort, protocol: "UDP" }] }),
      "port_in_use",
    );
    await serve(fixture(), id, 5300, echoingServer);
    await using one = await udpClient(hostPort);
    await using other = await udpClient(hostPort);
    // What comes before anybody listens is lost, as on any network.
    const answerOf = (client: typeof one, text: string) => {
      const beginning = `${text.slice(0, 100).toUpperCase()} ${text.length} `;
      return eventually("an answer", () => client.ask(text, { fits: (said) => said.startsWith(beginning) }));
    };
    const first = await answerOf(one, "hello");
    const second = await answerOf(other, "world");
    expect(first).toMatch(/^HELLO 5 \d+$/);
    expect(second).toMatch(/^WORLD 5 \d+$/);
    expect(first.split(" ")[2]).not.toBe(second.split(" ")[2]);
    expect(await answerOf(one, "again")).toBe(`AGAIN 5 ${first.split(" ")[2]}`);
    expect(await answerOf(one, "x".repeat(60_000))).toMatch(/^X{100} 60000 /);
    expect(await answerOf(one, "")).toMatch(/^ 0 /);
    await api.ports.remove(id, { sandboxPort: 5300, protocol: "udp" });
    expect(await one.ask("gone", { fits: (said) => said.startsWith("GONE ") })).toBeUndefined();
  });

  test("keeps what it publishes from other sandboxes, but for those whose rules name it", async () => {
    const { box, shell } = fixture();
    const server = `use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], Listen => 9, ReuseAddr => 1) or die;
      while (my $c = $s->accept) { while (<$c>) { last if /^\\r?\\n$/ } print $c "HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello"; close $c }`;
    const { id, ports } = await box({ ports: [{ sandbox_port: 8000 }] });
    await serve(fixture(), id, 8000, server);
    const published = `127.0.0.1:${ports?.[0]?.host_port}`;
    const get = async (from: string) =>
      (await shell(from, askProxy, { args: [`http://${published}/`] })).stdout;
    const named = await box({ network: { allow: [published] } });
    await eventually("the one that is named", async () => (await get(named.id)).startsWith("200 hello"));
    const stranger = await box({ network: { allow: ["*"] } });
    expect(await get(stranger.id)).toMatch(/^403 /);
    const direct =
      'exec perl -MIO::Socket::INET -e \'print IO::Socket::INET->new($ARGV[0]) ? "open" : "shut"\' "$1"';
    expect((await shell(stranger.id, direct, { args: [published] })).stdout).toBe("shut");
  });

  test(
    "keeps ports and their connections while it is paused",
    async () => {
      const { api, box } = fixture();
      const { id, ports } = await box({ ports: [{ sandbox_port: 8000 }] });
      await serve(fixture(), id, 8000);
      const hostPort = ports?.[0]?.host_port ?? 0;
      await eventually("a server inside", async () => (await exchange(hostPort, "ab")) === "2 AB");
      const before = connect({ port: hostPort, host: "127.0.0.1", allowHalfOpen: true });
      await once(before, "connect");
      before.write("first ");
      // It is inside once a later one has been answered.
      await exchange(hostPort, "x");
      expect((await api.pause(id)).ports).toEqual(ports);
      expect(await within(10_000, "a refusal", exchange(hostPort, "x"))).toBe("ECONNRESET");
      await api.resume(id);
      const answer = once(before, "data");
      before.end("second");
      expect(String((await answer)[0])).toBe("12 FIRST SECOND");
      expect(await exchange(hostPort, "x")).toBe("1 X");
    },
    { unless: unless("pause") },
  );

  test("refuses host ports that somebody has, and leaves nothing of the sandbox", async () => {
    const { api, box } = fixture();
    const program = createServer().listen(0, "127.0.0.1");
    try {
      await once(program, "listening");
      const { port } = program.address() as AddressInfo;
      await expectFailure(box({ ports: [{ sandbox_port: 1, host_port: port }] }), "port_in_use");
      expect(await api.list()).toEqual([]);
      const { id, ports } = await box({ ports: [{ sandbox_port: 1 }] });
      const taken = { sandbox_port: 2, host_port: ports?.[0]?.host_port ?? 0 };
      const failure = await expectFailure(box({ ports: [taken] }), "port_in_use");
      expect(failure.message).toContain(id);
      expect(failure.hint).toContain("warren port rm");
      await expectFailure(api.ports.add(id, taken), "port_in_use");
      await expectFailure(api.ports.add(id, { sandbox_port: 3, host_port: port }), "port_in_use");
      // A stopped one keeps what it will want again.
      await api.stop(id, { timeoutMs: 0 });
      await expectFailure(box({ ports: [taken] }), "port_in_use");
      expect((await api.list()).map((sandbox) => sandbox.id)).toEqual([id]);
    } finally {
      program.close();
    }
  });
}

/** Sends all, ends our direction, and gives back what comes until the other one ends, or the code of the failure. */
export function exchange(port: number, text: string, host = "127.0.0.1"): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ port, host, allowHalfOpen: true });
    let answer = "";
    socket.setEncoding("utf8").on("data", (chunk) => {
      answer += chunk;
    });
    socket.once("end", () => resolve(answer));
    socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    socket.end(text);
  });
}

/** Asks over UDP, always from the same port. */
export async function udpClient(port: number, host = "127.0.0.1") {
  const socket = createSocket(host.includes(":") ? "udp6" : "udp4");
  socket.on("error", () => {});
  socket.connect(port, host);
  await once(socket, "connect");
  return {
    socket,
    /** The next answer that `fits`, since a late one may be to an earlier question; undefined when none comes. */
    async ask(
      text: string,
      {
        fits = () => true,
        patienceMs = 500,
      }: { fits?: (answer: string) => boolean; patienceMs?: number } = {},
    ): Promise<string | undefined> {
      const answers = on(socket, "message", { signal: AbortSignal.timeout(patienceMs) });
      socket.send(text);
      try {
        for await (const [bytes] of answers) if (fits(String(bytes))) return String(bytes);
      } catch {
        // Its time is up.
      }
      return undefined;
    },
    async [Symbol.asyncDispose]() {
      socket.close();
    },
  };
}
