import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { nativeProgram } from "../../src/lib/native.ts";
import { changeGuard } from "../../src/runtimes/common/change-guard.ts";
import { type ProcessId, processId } from "../../src/runtimes/common/guest-process.ts";
import { run, startGuest, type TestGuest } from "./harness.ts";

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

/** Which of these a datagram to port 5 leaves for. */
async function leavesFor(guest: TestGuest, addresses: readonly string[]): Promise<string[]> {
  const args = addresses.flatMap((address) => [address, "5"]);
  const { stdout } = await run(guest, { argv: ["perl", "-e", send, ...args], env });
  const answers = stdout.trim().split(" ");
  expect(answers).toHaveLength(addresses.length);
  return addresses.filter((_, i) => answers[i] === "yes");
}

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

it("takes as many items as there may be, with ports", async () => {
  const most = Array.from({ length: 200 }, (_, i) => `+2a00:${(i + 1).toString(16)}::/32@${i + 1}-60000`);
  const networks = Array.from({ length: 300 }, (_, i) => `-10.${i >> 8}.${i & 255}.0/24`);
  await using guest = await guarded([...most, ...networks].join(","));
  expect(await leavesFor(guest, ["10.1.43.9", "10.1.44.9"])).toEqual(["10.1.44.9"]);
});

it("takes them from a file", async () => {
  await using other = await startGuest();
  const file = join(other.dir, "items");
  await writeFile(file, "-8.8.4.4/32,-10.0.0.0/8");
  await using guest = await guarded(file);
  expect(await leavesFor(guest, ["8.8.4.4", "8.8.4.5", "10.1.1.1"])).toEqual(["8.8.4.5"]);
  for (const text of ["", "-10.0.0.0/8,x", `-10.0.0.0/8${" ".repeat(256 << 10)}`]) {
    await writeFile(file, text);
    await using none = await guarded(file);
    expect(await none.ended).toBe(1);
  }
});

describe("what it lets out can be changed from outside", () => {
  const known = (guest: TestGuest) => processId(guest.pid) as ProcessId;
  const all = ["8.8.4.4", "8.8.4.5", "10.1.1.1"];

  it("as a whole, as often as it is asked for", async () => {
    await using guest = await guarded("-10.0.0.0/8");
    expect(await leavesFor(guest, all)).toEqual(["8.8.4.4", "8.8.4.5"]);
    await changeGuard("box", known(guest), ["-8.8.4.4/32", "+10.1.0.0/16", "-10.0.0.0/8"]);
    expect(await leavesFor(guest, all)).toEqual(["8.8.4.5", "10.1.1.1"]);
    await changeGuard("box", known(guest), ["-10.0.0.0/8"]);
    expect(await leavesFor(guest, all)).toEqual(["8.8.4.4", "8.8.4.5"]);
  });

  it("goes on counting connections", async () => {
    await using guest = await guarded("-10.0.0.0/8");
    const some = `use Socket; socket(my $s, AF_INET, SOCK_DGRAM, 0); my ($yes, $no) = (0, 0); my ($from, $to) = @ARGV;
      for ($from .. $to) { defined send($s, "x", 0, pack_sockaddr_in($_, inet_aton("9.9.9.9"))) ? $yes++ : $no++ } print $no`;
    const held = async (...ports: string[]) =>
      Number((await run(guest, { argv: ["perl", "-e", some, ...ports], env })).stdout);
    expect(await held("1", "3000")).toBe(0);
    await changeGuard("box", known(guest), ["-10.0.0.0/8", "-11.0.0.0/8"]);
    expect(await held("3001", "5000")).toBeGreaterThan(900);
  });

  it("not when an item can't be read, and then all stays as it was", async () => {
    await using guest = await guarded("-10.0.0.0/8");
    for (const items of [["-8.8.4.4/32", "x"], [""]]) {
      await expect(changeGuard("box", known(guest), items)).rejects.toThrow(/Invalid argument/);
    }
    expect(await leavesFor(guest, all)).toEqual(["8.8.4.4", "8.8.4.5"]);
  });

  it("not of a process that is another one by now, has our own network, or has no such rules", async () => {
    await using guest = await guarded("-10.0.0.0/8");
    const { pid, startTime } = known(guest);
    await expect(changeGuard("box", { pid, startTime: startTime + 1n }, ["+10.0.0.0/8"])).rejects.toThrow(
      /No such process/,
    );
    await expect(changeGuard("box", processId(process.pid) as ProcessId, ["-10.0.0.0/8"])).rejects.toThrow(
      /Invalid argument/,
    );
    await using other = await startGuest({ wrapper, env });
    await expect(changeGuard("box", known(other), ["-10.0.0.0/8"])).rejects.toMatchObject({
      code: "unsupported",
    });
    expect(await leavesFor(guest, all)).toEqual(["8.8.4.4", "8.8.4.5"]);
  });

  it("not from inside", async () => {
    await using guest = await guarded("-10.0.0.0/8");
    const { pid, startTime } = known(guest);
    const change = ["--change-guard", String(pid), String(startTime), "+10.0.0.0/8"];
    const argv = [nativeProgram("warren-guest"), ...change];
    expect((await run(guest, { argv, env })).exit_code).toBe(1);
    // In a user namespace of its own it has every right, but none over this one's network.
    expect(
      (await run(guest, { argv: ["unshare", "--user", "--map-root-user", "--net", ...argv], env })).exit_code,
    ).toBe(1);
    expect(await leavesFor(guest, all)).toEqual(["8.8.4.4", "8.8.4.5"]);
  });
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
