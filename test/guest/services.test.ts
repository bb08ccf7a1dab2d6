import { once, setMaxListeners } from "node:events";
import { chmod, mkdir, mkdtemp, readdir, readlink, rm, stat, symlink, writeFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { expect, it } from "vitest";
import { encodeFrame } from "../../src/guest/encoder.ts";
import { replies, requests } from "../../src/guest/frames.ts";
import type { ServiceNumber, ServicePlace } from "../../src/guest/types.ts";
import { expectFailure } from "../../src/testing/failures.ts";
import { quietPort } from "../../src/testing/ports.ts";
import {
  childrenOf,
  drain,
  type GuestOptions,
  run,
  script,
  startGuest,
  type TestGuest,
  until,
} from "./harness.ts";

const never = new AbortController().signal;
setMaxListeners(0, never);

async function serving(options: GuestOptions = {}) {
  const guest = await startGuest(options);
  const places = {
    1: { path: join(guest.dir, "run/warren/one.sock") },
    2: { port: await quietPort() },
  } as const;
  return {
    guest,
    places,
    accept: (service: ServiceNumber) => guest.client.acceptService(service, never),
    relay: () => until(async () => (await childrenOf(guest.pid))[0]),
    [Symbol.asyncDispose]: () => guest[Symbol.asyncDispose](),
  };
}

function program(place: ServicePlace, says?: string): net.Socket {
  const to = "path" in place ? { path: place.path } : { port: place.port, host: "127.0.0.1" };
  const socket = net.connect({ ...to, allowHalfOpen: true }).on("error", () => {});
  if (says !== undefined) socket.write(says);
  return socket;
}

const heard = async (socket: Duplex) => String((await once(socket, "data"))[0]);
const descriptorsOf = async (pid: number) => (await readdir(`/proc/${pid}/fd`)).length;
const listenersOf = async (guest: TestGuest) => {
  const names = await readdir(`/proc/${guest.pid}/fd`);
  return await Promise.all(
    [11, 12].filter((n) => names.includes(`${n}`)).map((n) => readlink(`/proc/${guest.pid}/fd/${n}`)),
  );
};

it("brings programs to the service that they connect to, while it runs, and others to none", async () => {
  await using rig = await serving();
  const { guest, places } = rig;
  expect(await guest.client.hello()).toMatchObject({ hasServices: true });
  await expectFailure(rig.accept(1), "unsupported");
  // Nothing of it costs those who ask for none.
  await expect.poll(() => childrenOf(guest.pid)).toEqual([]);
  for (const service of [1, 2] as const) {
    await guest.client.listen(service, places[service]);
    await guest.client.listen(service, places[service]);
  }
  expect(await listenersOf(guest)).toEqual([
    expect.stringMatching(/^socket/),
    expect.stringMatching(/^socket/),
  ]);
  expect((await stat(places[1].path)).mode & 0o777).toBe(0o666);
  const waiting = [rig.accept(2), rig.accept(1)] as const;
  const programs = [program(places[1], "to one"), program(places[2], "to two")] as const;
  const [two, one] = await Promise.all(waiting);
  expect([await heard(one), await heard(two)]).toEqual(["to one", "to two"]);
  one.end("from one");
  expect(await heard(programs[0])).toBe("from one");
  // As another user of the sandbox too; the way out is none of them.
  const connect = `use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die; print $s "me\\n"; print <$s>`;
  const next = rig.accept(1).then(async (socket) => socket.end(`you are ${await heard(socket)}`));
  await chmod(guest.dir, 0o755);
  const other = await run(guest, {
    ...script('exec perl -e "$1" "$2"', connect, places[1].path),
    user: "65534",
  });
  expect(other).toMatchObject({ stdout: "you are me\n", exit_code: 0 });
  await next;
  await expectFailure(guest.client.accept(never), "unsupported");
  for (const socket of [...programs, two]) socket.destroy();
});

it("replaces the socket of an earlier start, and nothing else", async () => {
  await using rig = await serving();
  const { path } = rig.places[1];
  await mkdir(join(path, ".."), { recursive: true });
  await writeFile(path, "mine");
  await expectFailure(rig.guest.client.listen(1, { path }), "port_in_use");
  const stale = join(rig.guest.dir, "stale.sock");
  const server = net.createServer().listen(stale);
  await once(server, "listening");
  await symlink(stale, join(rig.guest.dir, "link.sock"));
  await expectFailure(rig.guest.client.listen(1, { path: join(rig.guest.dir, "link.sock") }), "port_in_use");
  await rig.guest.client.listen(1, { path: stale });
  server.close();
  const taken = net.createServer().listen(0, "127.0.0.1");
  await once(taken, "listening");
  const { port } = taken.address() as net.AddressInfo;
  await expectFailure(rig.guest.client.listen(2, { port }), "port_in_use");
  taken.close();
});

it.each(["SIGKILL", "SIGSTOP"] as const)("is there again after a payload's %s", async (signal) => {
  await using rig = await serving();
  await rig.guest.client.listen(1, rig.places[1]);
  const relay = await rig.relay();
  process.kill(relay, signal);
  await until(async () => !(await childrenOf(rig.guest.pid)).includes(relay));
  const accepting = rig.accept(1);
  const client = program(rig.places[1], "again");
  expect(await heard(await accepting)).toBe("again");
  client.destroy();
});

it("has room for each service and for the way out, whatever floods the others", async () => {
  const port = await quietPort();
  await using rig = await serving({ args: ["--proxy-port", String(port)] });
  await rig.guest.client.listen(1, rig.places[1]);
  await rig.guest.client.listen(2, rig.places[2]);
  const relay = await rig.relay();
  const before = await descriptorsOf(relay);
  const flood = Array.from({ length: 100 }, () => program(rig.places[2], "flood"));
  await until(async () => (await descriptorsOf(relay)) === before + 64);
  const silent = Array.from({ length: 100 }, () => program(rig.places[1]));
  // Those who say nothing make room for one who speaks.
  const accepting = rig.accept(1);
  const client = program(rig.places[1], "I speak");
  expect(await heard(await accepting)).toBe("I speak");
  const out = rig.guest.client.accept(never);
  const proxied = program({ port }, "out");
  expect(await heard((await out).socket)).toBe("out");
  // What had to wait is served when there is room.
  for (let i = 0; i < 100; i++) (await rig.accept(2)).destroy();
  for (const socket of [...flood, ...silent]) socket.destroy();
  await until(async () => (await descriptorsOf(relay)) < before + 8);
  const idle = await descriptorsOf(relay);
  const stop = new AbortController();
  setMaxListeners(0, stop.signal);
  const waiting = Array.from({ length: 8 }, () =>
    rig.guest.client.acceptService(2, stop.signal).catch(() => {}),
  );
  await until(async () => (await descriptorsOf(relay)) >= idle + 8);
  await expectFailure(rig.accept(2), "guest_failed");
  stop.abort();
  await Promise.all(waiting);
  for (const socket of [client, proxied]) socket.destroy();
});

it.each([
  ["a service that there is not", [3], "/x", 0],
  ["no service", [0], "/x", 0],
  ["no place", [1], "", 0],
  ["two places", [1], "/x", 1],
  ["a path from nowhere", [1], "x", 0],
  ["a path that is no name of a socket", [1], `/${"x".repeat(107)}`, 0],
  ["more than there is to say", [1, 1], "/x", 0],
])("refuses %s", async (_what, [service = 0, ...more], path, port) => {
  await using guest = await startGuest();
  const frame = encodeFrame(requests.listen).u8(service).str(path).u16(port);
  for (const byte of more) frame.u8(byte);
  const socket = await guest.connect();
  socket.end(frame.finish());
  expect((await drain(socket))[4]).toBe(replies.error);
});

it("has the main command wait for a file of this start", async () => {
  const dir = await mkdtemp(join(tmpdir(), "warren-services-"));
  const file = join(dir, "ready");
  await writeFile(file, "of an earlier start");
  await using guest = await startGuest({ args: ["--main-after", file, "--", "/bin/sh", "-c", "echo begun"] });
  await until(async () => !(await stat(file).catch(() => undefined)));
  await writeFile(file, "");
  const { exit } = guest.client.waitMain();
  expect((await exit).exit_code).toBe(0);
  await rm(dir, { recursive: true });
});
