import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, stat } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import {
  childrenOf,
  collect,
  ownPidNamespace,
  run,
  script,
  startGuest,
  type TestGuest,
  until,
} from "./harness.ts";

/** The guest as process 1 of a pid namespace, in a directory that everybody may enter. */
async function startInside(): Promise<TestGuest> {
  const guest = await startGuest({
    wrapper: ownPidNamespace,
  });
  await chmod(guest.dir, 0o755);
  return guest;
}

/** Connects as often as it is told, keeps all connections, asks each HELLO, and prints the type and errno of each answer. */
const ask = `
use IO::Socket::UNIX;
my ($path, $count) = @ARGV;
$SIG{PIPE} = "IGNORE";
for (1..$count) {
  my $c = IO::Socket::UNIX->new(Peer => $path) or die "connect: $!\\n";
  push @all, $c;
  syswrite $c, pack("VC", 0, 1) if $ENV{HELLO};
  my ($header, $payload) = ("", "");
  sysread $c, $header, 5;
  my ($bytes, $type) = unpack("VC", $header);
  sysread $c, $payload, $bytes;
  $answers{sprintf("%02x", $type) . ($type == 0x81 ? " " . unpack("V", $payload) : "")}++;
  if ($type == 0x81) { sysread($c, $header, 1) and die "more than an answer\\n"; }
}
print join(", ", map { "$answers{$_} x $_" } sort keys %answers), "\\n";
if ($ENV{STAY}) { $| = 1; print "all are open\\n"; sleep 600; }
`;

const inside = (guest: TestGuest, user: string, count: number, env: Record<string, string>) => ({
  ...script('ulimit -n 4096; exec perl -e "$1" "$2" "$3"', ask, join(guest.dir, ".sock"), String(count)),
  user,
  env: { PATH: "/usr/bin:/bin", ...env },
});

it("lets everybody inside reach its socket, and takes none but root's connections", async () => {
  await using guest = await startInside();
  expect((await stat(join(guest.dir, ".sock"))).mode & 0o777).toBe(0o666);
  const as = async (user: string) => {
    const { stdout, stderr, exit_code } = await run(guest, inside(guest, user, 1, { HELLO: "1" }));
    expect({ stderr, exit_code }).toEqual({ stderr: "", exit_code: 0 });
    return stdout.trim();
  };
  expect(await as("0")).toBe("1 x 82");
  expect(await as("1000")).toBe("1 x 81 1");
  expect(await as("65534:0")).toBe("1 x 81 1");
});

it("takes the host's connections, whoever the host's user is", async () => {
  await using guest = await startInside();
  const child = spawn("/usr/bin/perl", ["-e", ask, join(guest.dir, ".sock"), "1"], {
    uid: 1000,
    gid: 1000,
    env: { HELLO: "1" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [answer] = await once(child.stdout, "data");
  expect(String(answer).trim()).toBe("1 x 82");
});

it("is not held up, and makes no process, for thousands who are refused", async () => {
  await using guest = await startInside();
  const pid = (await childrenOf(guest.pid))[0] as number;
  const count = 2000;
  const session = await guest.client.spawn(inside(guest, "1000", count, { STAY: "1" }));
  const output: string[] = [];
  const ended = (async () => {
    for await (const { data } of session.output) output.push(Buffer.from(data).toString());
  })();
  const before = await childrenOf(pid);
  for (let i = 0; !output.join("").includes("all are open"); i++) {
    expect(await guest.client.hello()).toMatchObject({ protocol: 1 });
    if (i > 100_000) throw new Error("it never ends");
  }
  expect(output.join("")).toContain(`${count} x 81 1\n`);
  // The spawn's handler, and no more.
  expect(before).toHaveLength(1);
  await until(async () => (await childrenOf(pid)).length === 1);
  await session.kill();
  await ended;
  await session.exit;
  expect((await run(guest, script("echo fine"))).stdout).toBe("fine\n");
});

it("does not wait for one who is refused and goes on sending", async () => {
  await using guest = await startInside();
  const flood = `
use IO::Socket::UNIX;
$SIG{PIPE} = "IGNORE";
my $block = "x" x 65536;
fork for 1..3;
while (1) {
  my $c = IO::Socket::UNIX->new(Peer => $ARGV[0]) or next;
  while (defined syswrite $c, $block) {}
}`;
  const session = await guest.client.spawn({
    ...script('exec perl -e "$1" "$2"', flood, join(guest.dir, ".sock")),
    user: "1000",
  });
  for (let i = 0; i < 50; i++) expect(await guest.client.hello()).toMatchObject({ protocol: 1 });
  await session.kill();
  await collect(session);
});
