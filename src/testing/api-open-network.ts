import { afterAll, afterEach, beforeAll, expect } from "vitest";
import type { SandboxApi } from "../contracts/api.ts";
import type { NetworkDecision } from "../contracts/network.ts";
import type { CreateSandbox } from "../contracts/sandbox.ts";
import { type ApiAbility, type ApiFixture, apiFixture } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";
import { defineSuite, type SuiteOptions } from "./suite.ts";
import { eventually } from "./wait.ts";

/** Where servers listen that a sandbox with open network may reach, and such that it may not. All listen on one port. */
export interface OpenNetworkPlaces {
  port: number;
  /** There, `outside` and `named` tell each client something ten times a second: by TCP, and by UDP once it has said something. */
  talking: number;
  /** An address and a name; none of them internal. */
  outside: readonly [address: string, name: string];
  /** Where the subject's network has IPv6. */
  outside6?: string | undefined;
  /** Addresses and names that the engine's machine reaches and no sandbox may: its own among them. */
  internal: readonly string[];
  internal6?: readonly string[];
  /** One of them, that a rule may name. */
  named: string;
  /** Under which a network stack could lead to the loopback of the engine's machine. No rule opens these. */
  hostLoopback: readonly string[];
  /** Whether the engine's machine can connect there. */
  fromHost(address: string, port: number): Promise<boolean> | boolean;
}

export interface OpenNetworkOptions extends SuiteOptions {
  /** As of `testApi`. The image needs a POSIX shell and perl. */
  defaults?: CreateSandbox;
  lacks?: readonly ApiAbility[];
}

/** Tries to connect to each pair of host and port, and says which take it. */
const dial = `use IO::Socket::IP; $| = 1;
  while (my ($to, $port) = splice @ARGV, 0, 2) {
    print "$to ", (IO::Socket::IP->new(PeerHost => $to, PeerPort => $port, Timeout => 4) ? "open" : "shut"), "\n";
  }`;

/**
 * Listens to those who talk, `PROTOCOL:ADDRESS` each, and says their name for each time, or that they have ended. It says something
 * to those of UDP at the beginning, and whenever the second argument is there as a file.
 */
const listen = `use IO::Select; use IO::Socket::IP; $| = 1;
  my ($port, $file, @who) = @ARGV; my (%name, $all); $all = IO::Select->new;
  for (@who) { my ($proto, $host) = /^([^:]+):(.*)$/;
    my $s = IO::Socket::IP->new(PeerHost => $host, PeerPort => $port, Proto => $proto, Type => $proto eq "tcp" ? SOCK_STREAM : SOCK_DGRAM) or die "$_: $@";
    $name{$s} = $_; $all->add($s); $s->send("x") if $proto eq "udp" }
  while (1) { for my $s ($all->can_read(0.5)) {
      my $n = sysread($s, my $b, 4096);
      print "$name{$s}\n" if $n;
      next if $n || $name{$s} =~ /^udp/; print "$name{$s} ended\n"; $all->remove($s) }
    if (-e $file) { unlink $file; $_->send("x") for grep { $name{$_} =~ /^udp/ } $all->handles } }`;

/** Whether each host takes a connection by TCP, and whether a datagram leaves for it; the last argument is the port. */
const attempts = `use IO::Socket::IP; my $port = pop;
  print IO::Socket::IP->new(PeerHost => $_, PeerPort => $port, Timeout => 4) ? "open " : "shut " for @ARGV;
  for (@ARGV) { my $s = IO::Socket::IP->new(PeerHost => $_, PeerPort => $port, Type => SOCK_DGRAM); print defined $s->send("x") ? "yes " : "no " }`;

/**
 * Tests of open network, on every runtime that has it. The subject must have no sandboxes of anybody else's, and the places must
 * be the test's own.
 */
export function testOpenNetwork(
  name: string,
  make: () => Promise<{ api: SandboxApi; places: OpenNetworkPlaces; close: () => Promise<void> }>,
  options: OpenNetworkOptions = {},
): void {
  defineSuite(`open network: ${name}`, options, (test) => {
    let made: Awaited<ReturnType<typeof make>>;
    let fixture: ApiFixture;
    beforeAll(async () => {
      made = await make();
      fixture = apiFixture(made.api, options.defaults ?? {}, options.lacks ?? []);
    });
    afterEach(() => fixture.clean());
    afterAll(() => made?.close());

    const open = (request: CreateSandbox = {}) => fixture.box({ network_mode: "open", ...request });
    /** Those of the hosts that a sandbox reaches. */
    const reached = async (id: string, hosts: readonly string[], port = made.places.port) => {
      const args = hosts.flatMap((host) => [host, String(port)]);
      const { stdout, stderr } = await fixture.api.exec(id, {
        cmd: ["perl", "-e", dial, ...args],
        timeout: 120,
      });
      const lines = stdout.trim().split("\n");
      if (lines.length !== hosts.length) throw new Error(`the client in the sandbox failed: ${stderr}`);
      return lines.filter((line) => line.endsWith(" open")).map((line) => line.slice(0, -" open".length));
    };

    test("reaches the outside by address and by name, and nothing internal", async () => {
      const { outside, outside6, internal, internal6 = [], hostLoopback } = made.places;
      const { id, network_mode } = await open();
      expect(network_mode).toBe("open");
      expect(await reached(id, outside)).toEqual(outside);
      if (outside6) {
        // A router's first word may take a moment.
        await eventually("IPv6", async () => (await reached(id, [outside6])).length === 1);
      }
      expect(await reached(id, [...internal, ...(outside6 ? internal6 : []), ...hostLoopback])).toEqual([]);
    });

    test("reaches all of these without its guard, so that nothing else keeps it from them", async () => {
      const { internal, internal6 = [], outside6, hostLoopback } = made.places;
      const { id } = await open({ network: { allow: ["0.0.0.0/0", "::/0"] } });
      expect(await reached(id, internal)).toEqual(internal);
      if (outside6) {
        await eventually("IPv6", async () => (await reached(id, [outside6])).length === 1);
        expect(await reached(id, internal6)).toEqual(internal6);
      }
      expect(await reached(id, hostLoopback)).toEqual([]);
    });

    test("reaches what its rules name, and not what they deny", async () => {
      const { named, port, outside } = made.places;
      const rules = { allow: [`${named}:${port}`], deny: [outside[0]] };
      const { id, network } = await open({ network: rules });
      expect(network).toEqual(rules);
      expect(await reached(id, [named, ...outside])).toEqual([named]);
      const { id: other } = await open({ network: { allow: [`${named}:${port + 1}`] } });
      expect(await reached(other, [named])).toEqual([]);
    });

    test("refuses rules that can't be enforced, by name", async () => {
      for (const rule of ["example.com", "*.example.com", "*", "internal:db.example.com"]) {
        await expectFailure(open({ network: { allow: [rule] } }), "unsupported");
        await expectFailure(open({ network: { deny: [rule] } }), "unsupported");
      }
      await expectFailure(open({ network: { allow: ["http://example.com"] } }), "invalid_request");
      const { id } = await open();
      const { network } = fixture.api;
      const rules = { allow: ["10.1.2.0/24"] };
      await network.set(id, rules);
      await expectFailure(network.set(id, { allow: ["example.com"] }), "unsupported");
      await expectFailure(network.change(id, { deny: ["*"] }), "unsupported");
      await expectFailure(network.change(id, { remove: ["10.0.0.0/8"] }), "invalid_request");
      await expectFailure(network.change(id, { learn: true }), "invalid_request");
      expect(await network.get(id)).toMatchObject({ mode: "open", rules });
    });

    test("follows rules that change while it runs, with connections that are open", async () => {
      const { api } = fixture;
      const { named, outside, port, talking } = made.places;
      const [address] = outside;
      const [denied, deniedUdp, kept] = [`tcp:${address}`, `udp:${address}`, `tcp:${named}`];
      const { id } = await open({
        network: { allow: [named] },
        cmd: ["perl", "-e", listen, String(talking), "/tmp/talk", denied, deniedUdp, kept],
      });
      let said: string[] = [];
      const log = (async () => {
        for await (const { data } of api.logs(id, { follow: true }))
          said.push(...new TextDecoder().decode(data).split("\n").filter(Boolean));
      })().catch(() => {}); // it ends with the sandbox
      const heard = (what: string, times = 1) =>
        eventually(what, () => said.filter((line) => line === what).length >= times);
      // What is said by UDP may get lost on its way.
      const heardUdp = () =>
        eventually(deniedUdp, async () => {
          if (said.includes(deniedUdp)) return true;
          await api.files.write(id, "/tmp/talk", new Uint8Array());
          return said.includes(deniedUdp);
        });
      for (const who of [denied, kept]) await heard(who);
      await heardUdp();

      const { network } = await api.network.change(id, { deny: [address] });
      expect(network).toEqual({ allow: [named], deny: [address] });
      await heard(`${denied} ended`);
      said = [];
      await heard(kept, 3);
      // One that was on its way may be among them.
      said = [];
      await heard(kept, 5);
      expect(new Set(said)).toEqual(new Set([kept]));
      expect(await reached(id, [address, named])).toEqual([named]);
      expect(await api.network.explain(id, address, port)).toMatchObject({ allowed: false, rule: address });

      await api.network.set(id, {});
      expect(await api.network.explain(id, named, port)).toMatchObject({ allowed: false, cause: "internal" });
      expect(await api.network.explain(id, address, port)).toMatchObject({ allowed: true, cause: "open" });
      await heard(`${kept} ended`);
      expect(await reached(id, [address, named])).toEqual([address]);
      await heardUdp();
      await api.remove(id);
      await log;
    });

    test("tells what it denies and why, and nothing of what it lets out", async () => {
      const { api } = fixture;
      const { named, outside, port } = made.places;
      const { id } = await open();
      const told: (NetworkDecision | undefined)[] = [];
      const stop = new AbortController();
      const events = (async () => {
        for await (const event of api.events({ sandbox: id, types: ["network"], signal: stop.signal }))
          told.push(event.decision);
      })().catch(() => {}); // it is ended below
      const denied = (cause: string, protocol: string) => ({
        host: named,
        port,
        allowed: false,
        cause,
        protocol,
      });
      const attempt = () => api.exec(id, { cmd: ["perl", "-e", attempts, named, outside[0], String(port)] });
      expect(await attempt()).toMatchObject({ stdout: "shut open no yes ", denied: 2 });
      // At its end all of it is told, each connection once, however often the kernel tried.
      const wanted = [denied("internal", "tcp"), denied("internal", "udp")];
      expect(await api.network.decisions(id)).toMatchObject(wanted);
      await eventually("the events", () => told.length === 2);
      expect(told).toMatchObject(wanted);
      expect(told[0]?.reason).toContain(`${named} is an internal address (`);
      expect(await api.network.get(id)).toMatchObject({ records: true, counts: { allowed: 0, denied: 2 } });
      expect(await attempt()).toMatchObject({ denied: 2 });

      await api.network.change(id, { deny: [`${named}:${port}`] });
      expect(await attempt()).toMatchObject({ denied: 2 });
      const rule = {
        ...denied("rule", "tcp"),
        rule: `${named}:${port}`,
        reason: `denied by ${named}:${port}`,
      };
      expect((await api.network.decisions(id)).slice(2)).toMatchObject([rule, { ...rule, protocol: "udp" }]);
      await api.network.set(id, { allow: [`${named}:${port}`] });
      const { denied: none, stdout } = await attempt();
      expect([none, stdout]).toEqual([undefined, "open open yes yes "]);
      await api.stop(id, { timeoutMs: 0 });
      expect(await api.network.get(id)).toMatchObject({ records: false });
      stop.abort();
      await events;
    });

    test("keeps rules that were changed over stop, start and pause, and has those that were changed meanwhile", async () => {
      const { api } = fixture;
      const { named, outside, port } = made.places;
      const [address] = outside;
      const { id } = await open({ cmd: ["perl", "-e", `${dial} sleep 1000`, address, String(port)] });
      let answers: string[] = [];
      const isAnswered = (times: number) =>
        eventually("the main command's answer", async () => {
          let said = "";
          for await (const { data } of api.logs(id)) said += new TextDecoder().decode(data);
          answers = said.match(/open|shut/g) ?? [];
          return answers.length === times;
        });
      await isAnswered(1);
      await api.network.set(id, { allow: [named], deny: [address] });
      await api.stop(id, { timeoutMs: 0 });
      await api.start(id);
      expect(await reached(id, [address, named])).toEqual([named]);
      await isAnswered(2);
      await api.stop(id, { timeoutMs: 0 });
      await api.network.set(id, { deny: [named] });
      await api.start(id);
      expect(await reached(id, [address, named])).toEqual([address]);
      // Its main command found them in force.
      await isAnswered(3);
      expect(answers).toEqual(["open", "shut", "open"]);
      if (options.lacks?.includes("pause")) return;
      await api.pause(id);
      await api.network.set(id, { allow: [named] });
      await api.resume(id);
      expect(await reached(id, [address, named])).toEqual([address, named]);
    });

    test("can't undo it from inside", async () => {
      const { id } = await open({ cmd: ["sh", "-c", "grep CapBnd /proc/self/status; exec sleep 1000"] });
      const hold = 1n << 12n; // CAP_NET_ADMIN
      const caps = async (of: string) => {
        const { stdout } = await fixture.shell(id, `grep -h '^Cap' /proc/${of}/status`);
        return [...stdout.matchAll(/^Cap\w+:\s+([0-9a-f]+)$/gm)].map(
          (match) => BigInt(`0x${match[1]}`) & hold,
        );
      };
      expect(await caps("self")).toEqual([0n, 0n, 0n, 0n, 0n]);
      expect(await caps("1")).toEqual([0n, 0n, 0n, 0n, 0n]);
      // AF_PACKET and raw sockets would go past it; an interface, a route or a rule of its own around it.
      const tries = `use Socket;
        print socket(my $p, 17, SOCK_RAW, 0) ? "packet " : "";
        print socket(my $r, AF_INET, SOCK_RAW, 1) ? "raw " : "";
        my $ask = sub { my ($proto, $body) = @_;
          socket(my $n, 16, SOCK_RAW, $proto) or return 0;
          send($n, $body, 0, pack("SSLL", 16, 0, 0, 0)) or return 0;
          recv($n, my $answer, 65536, 0); return unpack("x16 l", $answer) == 0 };
        # RTM_NEWLINK of a bridge; a table of nf_tables in a batch.
        my $kind = pack("SSa8", 10, 1, "bridge");
        my $info = pack("SS", 4 + length $kind, 18) . $kind;
        print $ask->(0, pack("LSSLL", 32 + length $info, 16, 0x605, 1, 0) . pack("x16") . $info) ? "link " : "";
        my $name = pack("SSa8", 11, 1, "warren");
        print $ask->(12, pack("LSSLLCCn", 20, 16, 1, 1, 0, 0, 0, 10) . pack("LSSLLCCn", 20 + length $name, 0xa02, 5, 2, 0, 1, 0, 0) . $name
          . pack("LSSLLCCn", 20, 17, 1, 3, 0, 0, 0, 10)) ? "table " : "";`;
      expect((await fixture.shell(id, 'exec perl -e "$1"', { args: [tries] })).stdout).toBe("");
      expect(await reached(id, made.places.internal)).toEqual([]);
    });

    test("is not reached by other sandboxes, nor by the engine's machine", async () => {
      const listen = `use Socket; socket(my $s, AF_INET, SOCK_STREAM, 0); bind($s, sockaddr_in(9000, INADDR_ANY));
        listen($s, 5); print "listening\n"; $| = 1; while (accept(my $c, $s)) { close $c }`;
      const server = await open({ cmd: ["perl", "-e", listen] });
      const own = `use Socket; socket(my $u, AF_INET, SOCK_DGRAM, 0); connect($u, sockaddr_in(9, inet_aton("45.67.0.9")));
        print inet_ntoa((sockaddr_in(getsockname $u))[1])`;
      const address = (await fixture.shell(server.id, 'exec perl -e "$1"', { args: [own] })).stdout;
      expect(address).toMatch(/^\d+(\.\d+){3}$/);
      await eventually("the server", async () => (await reached(server.id, [address], 9000)).length === 1);
      const client = await open();
      expect(await reached(client.id, [address], 9000)).toEqual([]);
      for (const host of [address, "127.0.0.1"])
        expect(await made.places.fromHost(host, 9000), host).toBe(false);
    });

    test("is there for the main command from its start", async () => {
      const { outside, port } = made.places;
      const { id } = await open({ cmd: ["perl", "-e", `${dial} sleep 1000`, outside[0], String(port)] });
      let said = "";
      for await (const { data } of fixture.api.logs(id, { until: "\n", timeoutS: 30 }))
        said += new TextDecoder().decode(data);
      expect(said).toBe(`${outside[0]} open\n`);
    });

    test("is not network host, which is the machine's own", async () => {
      const { internal, hostLoopback } = made.places;
      const { id } = await fixture.box({ network_mode: "host" });
      const loopback = hostLoopback.filter((host) => host.startsWith("127."));
      expect(await reached(id, [...internal, ...loopback])).toEqual([...internal, ...loopback]);
    });

    test("stays over stop, start and pause", async () => {
      const { api } = fixture;
      const { outside, internal } = made.places;
      const { id } = await open();
      await api.stop(id, { timeoutMs: 0 });
      await api.start(id);
      expect(await reached(id, [outside[0], ...internal])).toEqual([outside[0]]);
      if (options.lacks?.includes("pause")) return;
      await api.pause(id);
      await api.resume(id);
      expect(await reached(id, [outside[0], ...internal])).toEqual([outside[0]]);
    });
  });
}
