import { expect } from "vitest";
import type { GuestClient } from "../guest/types.ts";
import { runInside } from "./guest-tools.ts";
import type { RuntimeContext } from "./runtime-fixture.ts";

/** Connects to the host `$ARGV[0]` and port `$ARGV[1]`, says hello, and prints the answer, or `shut`. */
const talk = `my $s = IO::Socket::IP->new(PeerHost => $ARGV[0], PeerService => $ARGV[1], Type => SOCK_STREAM) or do { print "shut"; exit };
  print $s "hello\\n"; $s->shutdown(1); print <$s>;`;
/** Asks the name server `$ARGV[0]` for the IPv4 address of a.example, and prints it; with `$ARGV[1]` by TCP. */
const ask = `my $s = IO::Socket::IP->new(PeerHost => $ARGV[0], PeerService => 53, Type => $ARGV[1] ? SOCK_STREAM : SOCK_DGRAM) or do { print "shut"; exit };
  my $q = pack("n6C/aC/aCnn", 1, 256, 1, 0, 0, 0, "a", "example", 0, 1, 1); $q = pack("n", length $q) . $q if $ARGV[1];
  syswrite $s, $q; alarm 5; sysread($s, my $a, 512) or do { print "shut"; exit }; print join ".", unpack("C4", substr $a, -4);`;
const perl = async (guest: GuestClient, script: string, ...args: string[]) =>
  (await runInside(guest, ["perl", "-MSocket", "-MIO::Socket::IP", "-e", script, ...args])).stdout;

/** What each process says of its guards. */
const guards = `for f in /proc/self/status /proc/1/status; do grep -E "^(Cap|NoNewPrivs|Seccomp:)" $f; done`;

/** Filtered network, as far as it is the runtime's: who decides is above. */
export function testNetwork({ test, fixture }: RuntimeContext): void {
  test("captures what programs that know no proxy connect to, or says that it can't", async () => {
    const { runtime, box } = fixture();
    const { guest, spec } = await box({ network: "filtered" });
    const { captures } = await guest.hello();
    expect(captures).toBe(runtime.capabilities.networkCapture && spec.isolation === "container");
    if (!captures) {
      expect(await perl(guest, talk, "192.0.2.1", "443")).toBe("shut");
      expect(await perl(guest, talk, "some.example", "443")).toBe("shut");
      expect(await perl(guest, ask, "192.0.2.53")).toBe("shut");
      return;
    }
    // Docker switches IPv6 off inside: then it leads nowhere.
    const hasIPv6 = (await runInside(guest, ["cat", "/proc/net/if_inet6"])).stdout !== "";
    if (!hasIPv6) expect(await perl(guest, talk, "2001:db8::1", "4433")).toBe("shut");
    for (const host of ["some.example", "192.0.2.1", "10.0.0.1", ...(hasIPv6 ? ["2001:db8::1"] : [])]) {
      const answer = async () => {
        const { socket, target } = await guest.accept(AbortSignal.timeout(10_000));
        socket.on("data", () => socket.end(`you wanted ${target?.host} ${target?.port}`));
      };
      const [said] = await Promise.all([perl(guest, talk, host, "4433"), answer()]);
      expect(said).toBe(`you wanted ${host} 4433`);
    }
    for (const server of ["192.0.2.53", "127.0.0.1", ...(hasIPv6 ? ["2001:db8::53"] : [])]) {
      expect(await perl(guest, ask, server)).toMatch(/^198\.19\.\d+\.\d+$/);
      expect(await perl(guest, ask, server, "tcp")).toMatch(/^198\.19\.\d+\.\d+$/);
    }
    // What is neither TCP nor a query for a name has no way, and programs are told at once.
    const udp = `my $s = IO::Socket::IP->new(PeerHost => "192.0.2.1", PeerService => 123, Type => SOCK_DGRAM);
      syswrite $s, "x"; alarm 5; print defined sysread($s, my $b, 9) ? "answered" : "refused";`;
    expect(await perl(guest, udp)).toBe("refused");
  });

  test("keeps nothing of what it captures with", async () => {
    const { box } = fixture();
    const seen: string[] = [];
    for (const network of ["none", "filtered"] as const) {
      const { guest } = await box({ network });
      seen.push((await runInside(guest, ["sh", "-c", guards])).stdout);
    }
    expect(seen[0]).toMatch(/^CapEff/m);
    expect(seen[1]).toBe(seen[0]);
  });
}
