import { expect, it } from "vitest";
import { run, startGuest } from "./harness.ts";

/** A network namespace of the test's own, with a device behind which nobody is. */
const wrapper = [
  ...["unshare", "--user", "--map-root-user", "--net", "sh", "-c"],
  `ip link set lo up && ip link add d0 type bridge && ip link set d0 up &&
   ip addr add 192.168.7.2/24 dev d0 && ip addr add fd77::2/64 dev d0 nodad &&
   ip neigh add 192.168.7.1 lladdr 02:00:00:00:00:01 dev d0 nud permanent && ip route add default via 192.168.7.1 && ip route add default via fd77::1 && exec "$@"`,
  "sh",
];
const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };

/** Sends a datagram to each pair of address and port; prints "yes" or "no" for whether it left. */
const send = `use IO::Socket::IP; $| = 1;
  while (my ($to, $port) = splice @ARGV, 0, 2) {
    my $s = IO::Socket::IP->new(PeerHost => $to, PeerPort => $port, Type => SOCK_DGRAM) or die "$to: $@";
    print defined $s->send("x") ? "yes " : "no ";
  }`;

async function guarded(items: string, args: readonly string[] = []) {
  return await startGuest({ wrapper, args: ["--guard", items, ...args], env });
}

it("lets out what no item is about, and decides in their order", async () => {
  await using guest = await guarded(
    "-8.8.4.4/32,+10.1.0.0/16@50-60,+10.2.0.0/15,-10.0.0.0/8,-fd00::/9,-2a00::/11",
  );
  const cases: [address: string, port: number, leaves: boolean][] = [
    ["9.9.9.9", 5, true],
    ["8.8.4.4", 5, false],
    ["8.8.4.5", 5, true],
    ["10.1.2.3", 50, true],
    ["10.1.2.3", 60, true],
    ["10.1.2.3", 49, false],
    ["10.1.2.3", 61, false],
    ["10.3.255.255", 5, true],
    ["10.4.0.0", 5, false],
    ["127.0.0.1", 5, true],
    ["fd7f::1", 5, false],
    ["fd80::1", 5, true],
    ["2a1f:ffff::1", 5, false],
    ["2a20::1", 5, true],
  ];
  const args = cases.flatMap(([address, port]) => [address, String(port)]);
  const { stdout, stderr } = await run(guest, { argv: ["perl", "-e", send, ...args], env });
  expect(stderr).toBe("");
  expect(
    stdout
      .trim()
      .split(" ")
      .map((word, i) => [...(cases[i] ?? []).slice(0, 2), word === "yes"]),
  ).toEqual(cases);
});

it("lets a bounded number of connections out at a time", async () => {
  await using guest = await guarded("-10.0.0.0/8");
  const many = `use Socket; my ($yes, $no) = (0, 0); socket(my $s, AF_INET, SOCK_DGRAM, 0);
    for (1 .. 4200) { defined send($s, "x", 0, pack_sockaddr_in($_, inet_aton("9.9.9.9"))) ? $yes++ : $no++ } print "$yes $no"`;
  const { stdout } = await run(guest, { argv: ["perl", "-e", many], env });
  const [left = 0, held = 0] = stdout.split(" ").map(Number);
  // The kernel's own, such as its reports of groups, count too.
  expect(left).toBeGreaterThan(4080);
  expect(left).toBeLessThanOrEqual(4096);
  expect(left + held).toBe(4200);
});

it("has given up what could change this before anybody runs", async () => {
  await using guest = await guarded("-10.0.0.0/8", [
    "--",
    "sh",
    "-c",
    "grep ^Cap /proc/self/status; exec sleep 60",
  ]);
  const { stdout } = await run(guest, {
    argv: ["sh", "-c", "grep ^Cap /proc/self/status; ip link del d0"],
    env,
  });
  const sets = [...stdout.matchAll(/^Cap\w+:\s+(\w+)/gm)].map((match) => BigInt(`0x${match[1]}`));
  expect(sets.map((set) => set & (1n << 12n))).toEqual([0n, 0n, 0n, 0n, 0n]);
  expect((await run(guest, { argv: ["ip", "link", "del", "d0"], env })).exit_code).not.toBe(0);
});

it.each([
  "10.0.0.0/8",
  "-10.0.0.0",
  "-10.0.0.0/33",
  "-fd00::/129",
  "+10.0.0.0/8@0-5",
  "+10.0.0.0/8@6-5",
  "-x/8",
  "-10.0.0.0/8@1-2x",
  "-",
])("does not start with %s for an item", async (items) => {
  await using guest = await guarded(`-10.0.0.0/8,${items}`);
  expect(await guest.ended).toBe(1);
  expect(guest.stderr()).toContain("Invalid argument");
});

it("does not start where it may not make its rules", async () => {
  await using guest = await startGuest({
    wrapper: ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"],
    args: ["--guard", "-10.0.0.0/8"],
    env,
  });
  expect(await guest.ended).toBe(1);
  expect(guest.stderr()).toContain("Operation not permitted");
});
