import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { Denial, DenialWatch } from "../../src/contracts/runtime.ts";
import { nativeProgram } from "../../src/lib/native.ts";
import { type ProcessId, processId } from "../../src/runtimes/common/guest-process.ts";
import { parseDenial, watchGuard } from "../../src/runtimes/common/watch-guard.ts";
import { childrenOf, run, startGuest, type TestGuest, until } from "./harness.ts";

/** A network namespace of the test's own, with a device behind which nobody is. */
const wrapper = [
  ...["unshare", "--user", "--map-root-user", "--net", "sh", "-c"],
  `ip link set lo up && ip link add d0 type bridge && ip link set d0 up &&
   ip addr add 192.168.7.2/24 dev d0 && ip addr add fd77::2/64 dev d0 nodad &&
   ip neigh add 192.168.7.1 lladdr 02:00:00:00:00:01 dev d0 nud permanent && ip route add default via 192.168.7.1 && ip route add default via fd77::1 && exec "$@"`,
  "sh",
];
const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };
const guarded = () => startGuest({ wrapper, args: ["--guard", "-10.0.0.0/8,-224.0.0.0/4,-fd00::/9"], env });
const known = (guest: TestGuest) => processId(guest.pid) as ProcessId;
const perl = (guest: TestGuest, script: string, ...args: string[]) =>
  run(guest, { argv: ["perl", "-e", script, ...args], env });

interface Watched extends AsyncDisposable {
  told: Denial[];
  watch: DenialWatch;
  /** Of the process that watches. */
  pid: number;
}

async function watched(guest: TestGuest): Promise<Watched> {
  const told: Denial[] = [];
  const watch = await watchGuard("box", known(guest), (denial) => told.push(denial));
  const pids = await childrenOf(process.pid);
  const pid = pids.find((one) => readFileSync(`/proc/${one}/cmdline`, "utf8").includes(`\0${guest.pid}\0`));
  if (pid === undefined) throw new Error("nobody watches");
  return {
    told,
    watch,
    pid,
    async [Symbol.asyncDispose]() {
      watch[Symbol.dispose]();
      await until(() => processId(pid) === undefined);
    },
  };
}

/** An echo request from a raw socket, which this guest may have. */
const ping = `use Socket; socket(my $r, AF_INET, SOCK_RAW, 1) or die $!;
  send($r, pack("CCnnn", 8, 0, 0xffff - 0x0801 - 6, 1, 5), 0, pack_sockaddr_in(0, inet_aton("10.5.5.5")));`;

describe("what the guard denies is told outside", () => {
  it("by protocol, address and port: what programs want, each connection once, and nothing that is let out", async () => {
    await using guest = await guarded();
    await using own = await watched(guest);
    // The kernel itself reports that somebody is in a group, which the guard denies, too.
    const script = `use IO::Socket::IP; use Socket;
      my $s = IO::Socket::IP->new(PeerHost => "fd00::5", PeerPort => 53, Type => SOCK_DGRAM); $s->send("x") for 1 .. 10;
      IO::Socket::IP->new(PeerHost => "9.9.9.9", PeerPort => 53, Type => SOCK_DGRAM)->send("x");
      socket(my $m, AF_INET, SOCK_DGRAM, 0); setsockopt($m, 0, 35, inet_aton("239.1.2.3") . inet_aton("192.168.7.2")) or die $!;
      ${ping}
      IO::Socket::IP->new(PeerHost => "10.1.2.3", PeerPort => 443, Timeout => 4);`;
    expect(await perl(guest, script)).toMatchObject({ exit_code: 0, stderr: "" });
    await own.watch.settle();
    expect(own.told).toEqual([
      { cause: "rules", protocol: "udp", address: "fd00::5", port: 53 },
      { cause: "rules", protocol: "icmp", address: "10.5.5.5", port: 0 },
      { cause: "rules", protocol: "tcp", address: "10.1.2.3", port: 443 },
    ]);
  });

  it("when it is one connection too many, too", async () => {
    await using guest = await guarded();
    await using own = await watched(guest);
    const many = `use Socket; socket(my $s, AF_INET, SOCK_DGRAM, 0);
      for (1 .. 4200) { send($s, "x", 0, pack_sockaddr_in($_, inet_aton("9.9.9.9"))) }`;
    await perl(guest, many);
    await own.watch.settle();
    expect(own.told[0]).toMatchObject({ cause: "connections", protocol: "udp", address: "9.9.9.9" });
    expect(own.told[0]?.port).toBeGreaterThan(4080);
  });

  it("so often as is bounded, whatever is done inside", async () => {
    await using guest = await guarded();
    await using own = await watched(guest);
    const began = performance.now();
    const flood = `use Socket; socket(my $s, AF_INET, SOCK_DGRAM, 0);
      for (1 .. 20_000) { send($s, "x", 0, pack_sockaddr_in($_, inet_aton("10.1.1.1"))) }`;
    await perl(guest, flood);
    await own.watch.settle();
    const seconds = (performance.now() - began) / 1000;
    expect(own.told.length).toBeGreaterThanOrEqual(40);
    expect(own.told.length).toBeLessThanOrEqual(41 + 20 * seconds);
  });

  it("by a process without rights, which ends with the sandbox and with who started it", async () => {
    await using guest = await guarded();
    {
      await using own = await watched(guest);
      const status = readFileSync(`/proc/${own.pid}/status`, "utf8");
      expect(status.match(/^Cap(Inh|Prm|Eff|Amb):\t0+$/gm)).toHaveLength(4);
      expect(status).toMatch(/^NoNewPrivs:\t1$/m);
    }
    const { pid, startTime } = known(guest);
    const parent = `my $child = fork; exec @ARGV if !$child; print "$child\n"; waitpid $child, 0`;
    const args = [nativeProgram("warren-guest"), "--watch-guard", String(pid), String(startTime)];
    // Whose stdin stays open when it is killed.
    const other = spawn("sleep", ["60"], { stdio: ["ignore", "pipe", "ignore"] });
    const starter = spawn("/usr/bin/perl", ["-e", `$| = 1; ${parent}`, ...args], {
      stdio: [other.stdout, "pipe", "inherit"],
    });
    let said = "";
    starter.stdout.on("data", (data: Buffer) => {
      said += data;
    });
    await until(() => /^ready$/m.test(said) && /^\d+\n/m.test(said));
    const orphan = Number(/^\d+$/m.exec(said)?.[0]);
    expect(processId(orphan)).toBeDefined();
    starter.kill("SIGKILL");
    await until(() => processId(orphan) === undefined);
    other.kill();
    await using own = await watched(guest);
    guest.process.kill("SIGKILL");
    expect(await own.watch.ended).toBeUndefined();
    await own.watch.settle();
    await expect(watchGuard("box", { pid, startTime }, () => {})).rejects.toMatchObject({
      code: "runtime_failed",
    });
  });

  it("to nobody inside, who can say nothing in the kernel's place either", async () => {
    await using guest = await guarded();
    await using own = await watched(guest);
    const { pid, startTime } = known(guest);
    const watch = [nativeProgram("warren-guest"), "--watch-guard", String(pid), String(startTime)];
    expect(await run(guest, { argv: watch, env })).toMatchObject({ exit_code: 1, stdout: "" });
    // Joins the group; sends a message of the kernel's kind to who watches.
    const tries = `use Socket; my ($to) = @ARGV; socket(my $n, 16, SOCK_RAW, 12) or die $!;
      print setsockopt($n, 270, 1, pack("l", 9)) ? "heard " : "";
      my $attr = sub { my $a = pack("SS", 4 + length $_[1], $_[0]) . $_[1]; $a . "\\0" x (-length($a) % 4) };
      my $ip = pack("CCnnnCCna4a4", 0x45, 0, 40, 0, 0, 64, 6, 0, inet_aton("192.168.7.2"), inet_aton("6.6.6.6"));
      my $body = pack("CCn", 1, 0, 0) . $attr->(1, "warren\\0") . $attr->(2, "denied\\0") . $attr->(4, pack("N", 3))
        . $attr->(8, $ip) . $attr->(9, pack("nnNNnnnn", 1, 666, 0, 0, 0x5000, 0, 0, 0));
      print send($n, pack("LSSLL", 16 + length $body, 0xa11, 0, 0, 0) . $body, 0, pack("SSLL", 16, 0, $to, 0)) ? "said " : "";`;
    expect((await perl(guest, tries, String(own.pid))).stdout).toBe("");
    // Who has the right to can send it, and is not believed.
    const outside = ["-U", "-n", "--preserve-credentials", "-t", String(pid), "perl", "-e", tries];
    const privileged = spawn("nsenter", [...outside, String(own.pid)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let said = "";
    privileged.stdout.on("data", (data: Buffer) => {
      said += data;
    });
    await once(privileged, "close");
    expect(said).toBe("heard said ");
    await own.watch.settle();
    expect(own.told).toEqual([]);
  });

  it("not where there are no such rules", async () => {
    await using guest = await startGuest({ wrapper, env });
    await expect(watchGuard("box", known(guest), () => {})).rejects.toMatchObject({ code: "unsupported" });
  });
});

it.each([
  "",
  "denied tcp 10.0.0.1",
  "denied tcp 10.0.0.1 65536",
  "denied tcp 10.0.0.256 1",
  "denied sctp 10.0.0.1 1",
  "denied tcp ::ffff:1.2.3 1",
  "denied tcp 10.0.0.1 1 ",
  "other tcp 10.0.0.1 1",
])("the line %j tells nothing", (line) => {
  expect(parseDenial(line)).toBeUndefined();
});
