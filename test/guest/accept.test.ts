import { once, setMaxListeners } from "node:events";
import { readdir, readFile, readlink, stat } from "node:fs/promises";
import net from "node:net";
import type { Duplex } from "node:stream";
import { describe, expect, it } from "vitest";
import { createGuestClient } from "../../src/guest/client.ts";
import { encodeFrame } from "../../src/guest/encoder.ts";
import { replies } from "../../src/guest/frames.ts";
import { expectFailure } from "../../src/testing/failures.ts";
import { quietPort } from "../../src/testing/ports.ts";
import {
  childrenOf,
  drain,
  frame,
  type GuestOptions,
  isSanitized,
  processStatus,
  run,
  script,
  startGuest,
  until,
} from "./harness.ts";

/** Processor time that it has used, in the kernel's unit. */
async function ticksOf(pid: number): Promise<number> {
  const fields = (await readFile(`/proc/${pid}/stat`, "utf8")).split(") ")[1]?.split(" ") ?? [];
  return Number(fields[11]) + Number(fields[12]);
}

async function linksOf(pid: number): Promise<string[]> {
  const names = await readdir(`/proc/${pid}/fd`).catch(() => []);
  return Promise.all(names.map((name) => readlink(`/proc/${pid}/fd/${name}`).catch(() => "")));
}

const descriptorsOf = async (pid: number): Promise<number> => (await readdir(`/proc/${pid}/fd`)).length;

/** Two ends of one connection. */
async function socketPair(): Promise<[net.Socket, net.Socket]> {
  const server = net.createServer({ allowHalfOpen: true }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const far = new Promise<net.Socket>((resolve) => server.once("connection", resolve));
  const near = net.connect({ port: (server.address() as net.AddressInfo).port, host: "127.0.0.1" });
  const pair: [net.Socket, net.Socket] = [near, await far];
  server.close();
  return pair;
}

it("hands the connections of programs inside to those who wait for them, one each", async () => {
  const port = await quietPort();
  await using guest = await startGuest({ args: ["--proxy-port", String(port)] });
  const stop = new AbortController();
  const waiting = [1, 2, 3].map(async () => (await guest.client.accept(stop.signal)).socket);
  const clients = [1, 2].map((i) => {
    const client = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true });
    client.end(`client ${i}`);
    return client;
  });
  const first = await Promise.race(waiting);
  const second = await Promise.race(
    waiting.map(async (one) => ((await one) === first ? new Promise<never>(() => {}) : one)),
  );
  const said: string[] = [];
  for (const accepted of [first, second]) {
    let text = "";
    accepted.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    await new Promise((resolve) => accepted.once("end", resolve));
    said.push(text);
    accepted.end(`to ${text}`);
  }
  expect(said.sort()).toEqual(["client 1", "client 2"]);
  const answers = await Promise.all(clients.map(async (client) => (await drain(client)).toString()));
  expect(answers).toEqual(["to client 1", "to client 2"]);
  stop.abort();
  const outcomes = await Promise.allSettled(waiting);
  expect(outcomes.filter(({ status }) => status === "rejected")).toHaveLength(1);
  await expect.poll(() => childrenOf(guest.pid)).toHaveLength(1);
});

it("keeps a client that came before anybody waited", async () => {
  const port = await quietPort();
  await using guest = await startGuest({ args: ["--proxy-port", String(port)] });
  const client = net.connect({ port, host: "127.0.0.1" });
  client.write("early");
  await new Promise((resolve) => client.once("connect", resolve));
  const { socket: accepted, target } = await guest.client.accept(new AbortController().signal);
  expect(target).toBeUndefined();
  expect((await new Promise<Buffer>((resolve) => accepted.once("data", resolve))).toString()).toBe("early");
  client.destroy();
  accepted.destroy();
});

/** A guest that listens for programs, the one that connects as such, and the other end of its connection. */
async function startProxied(options: GuestOptions = {}) {
  const port = await quietPort();
  const guest = await startGuest({ ...options, args: ["--proxy-port", String(port)] });
  const relay = await until(async () => (await childrenOf(guest.pid))[0]);
  // From then on it has what it keeps.
  await until(async () => (await linksOf(relay)).some((link) => link.includes("eventpoll")));
  return {
    guest,
    relay,
    accept: async () => (await guest.client.accept(new AbortController().signal)).socket,
    program(): net.Socket {
      const client = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true });
      return client.on("error", () => {});
    },
    [Symbol.asyncDispose]: () => guest[Symbol.asyncDispose](),
  };
}

it("carries a thousand connections at once in one small process, beside everything else", async () => {
  const count = 1000;
  await using rig = await startProxied();
  const accepted: Duplex[] = [];
  const takes = Array.from({ length: 8 }, async () => {
    for (let socket = await rig.accept(); ; socket = await rig.accept()) {
      accepted.push(socket);
      socket.on("error", () => {}).pipe(socket);
    }
  });
  const programs = Array.from({ length: count }, (_, i) => {
    const program = rig.program();
    program.write(`program ${i}`);
    return program;
  });
  const said = (program: net.Socket) =>
    new Promise((resolve) => program.once("data", (b) => resolve(String(b))));
  expect(await Promise.all(programs.map(said))).toEqual(programs.map((_, i) => `program ${i}`));
  expect(accepted).toHaveLength(count);
  expect((await run(rig.guest, script("echo fine"))).stdout).toBe("fine\n");
  await expect.poll(() => childrenOf(rig.guest.pid)).toEqual([rig.relay]);
  // The sanitizers have memory of their own.
  if (!isSanitized) expect((await processStatus(rig.relay)).rssKiB).toBeLessThan(1500);
  for (const program of programs) program.destroy();
  await until(async () => (await descriptorsOf(rig.relay)) < 50);
  rig.guest.process.kill("SIGKILL");
  await Promise.allSettled(takes);
});

it("ends each direction by itself, whoever ends first", async () => {
  await using rig = await startProxied();
  for (const hostFirst of [false, true]) {
    const accepting = rig.accept();
    const program = rig.program();
    program.write("hello");
    const host = await accepting;
    const [first, second] = hostFirst ? [host, program] : [program, host];
    const heard = drain(second);
    first.end("the last words");
    expect((await heard).toString()).toMatch(/the last words$/);
    const answer = drain(first);
    second.write("and yet");
    second.end("x".repeat(1_000_000));
    expect((await answer).toString()).toMatch(/(^|hello)and yetx{1000000}$/);
    first.destroy();
    second.destroy();
  }
});

it("holds up who is not read, with little of his, and loses none of it", async () => {
  await using rig = await startProxied();
  const bytes = Buffer.alloc(64 << 20, "0123456789abcdef!");
  for (const fromHost of [true, false]) {
    const accepting = rig.accept();
    const program = rig.program();
    program.write("!");
    const host = await accepting;
    if (!fromHost) await once(host, "readable");
    const [writer, reader] = fromHost ? [host, program] : [program, host];
    let taken = false;
    writer.end(bytes, () => {
      taken = true;
    });
    // It has come to a standstill when the relay needs no more time.
    let before = -1;
    await until(async () => {
      const now = await ticksOf(rig.relay);
      const isStill = now === before;
      before = now;
      await new Promise((resolve) => setTimeout(resolve, 50));
      return isStill;
    });
    expect(taken).toBe(false);
    if (!isSanitized) expect((await processStatus(rig.relay)).rssKiB).toBeLessThan(1000);
    const read = await drain(reader);
    expect(read.subarray(fromHost ? 0 : 1).equals(bytes)).toBe(true);
    host.destroy();
    program.destroy();
  }
});

it("tells each side that the other has gone", async () => {
  await using rig = await startProxied();
  for (const isHost of [true, false]) {
    const accepting = rig.accept();
    const program = rig.program();
    program.write("hello");
    const host = await accepting;
    const [one, other] = isHost ? [host, program] : [program, host];
    const heard = drain(other);
    one.destroy();
    await heard;
    other.destroy();
  }
  await until(async () => (await descriptorsOf(rig.relay)) < 10);
});

it("serves those who speak among more silent ones than there is room for", async () => {
  // Of 512 descriptors, 96 are for other things than connections of two each.
  const room = (512 - 96) / 2;
  await using rig = await startProxied({ uid: 54_321, wrapper: ["prlimit", "--nofile=512:512"] });
  const silent = Array.from({ length: 3 * room }, () => rig.program());
  const accepting = rig.accept();
  const ended = silent.map((program) => once(program.resume(), "end"));
  await Promise.all(silent.map((program) => program.pending && once(program, "connect")));
  const program = rig.program();
  program.write("but I speak");
  const host = await accepting;
  expect(String((await once(host, "data"))[0])).toBe("but I speak");
  // The oldest ones made room.
  await Promise.all(ended.slice(0, room));
  expect(await descriptorsOf(rig.relay)).toBeLessThan(room + 20);
  for (const one of silent) one.destroy();
  program.destroy();
  host.destroy();
});

it("refuses what goes beyond its bounds, and goes on with the rest", async () => {
  await using rig = await startProxied({ uid: 54_321, wrapper: ["prlimit", "--nofile=256:256"] });
  const room = (256 - 96) / 2;
  const stop = new AbortController();
  setMaxListeners(0, stop.signal);
  const before = await descriptorsOf(rig.relay);
  const waiting = Array.from({ length: 64 }, () => rig.guest.client.accept(stop.signal));
  const outcomes = Promise.allSettled(waiting);
  await until(async () => (await descriptorsOf(rig.relay)) === before + 64);
  const failure = await expectFailure(rig.guest.client.accept(stop.signal), "guest_failed");
  expect(failure.message).toMatch(/as many connections as it can have/);
  stop.abort();
  await outcomes;
  await until(async () => (await descriptorsOf(rig.relay)) === before);
  // Programs that have spoken, and that nobody takes, stay; more of them wait in the kernel.
  const programs = Array.from({ length: room + 20 }, (_, i) => {
    const program = rig.program();
    program.write(`${i}`);
    return program;
  });
  await until(async () => (await descriptorsOf(rig.relay)) === before + room);
  expect((await expectFailure(rig.guest.client.dial(1), "guest_failed")).message).toBe(
    failure.message.replace(/.*: /, "port 1 of the sandbox: "),
  );
  const served = new Set<string>();
  for (const _ of programs) {
    const host = await rig.accept();
    served.add(String((await once(host, "data"))[0]));
    host.destroy();
  }
  expect(served.size).toBe(programs.length);
  for (const program of programs) program.destroy();
});

it("can't be looked into by others of its user", async () => {
  await using rig = await startProxied({ uid: 54_321 });
  for (const name of ["mem", "fd"]) expect((await stat(`/proc/${rig.relay}/${name}`)).uid, name).toBe(0);
  // As those of one who can be looked into are his own.
  const other = await rig.guest.client.spawn(script("sleep 60"));
  expect((await stat(`/proc/${other.pid}/mem`)).uid).toBe(54_321);
  await other.kill();
});

it("leaves nothing of those who no longer wait", async () => {
  await using rig = await startProxied();
  const before = await descriptorsOf(rig.relay);
  const stop = new AbortController();
  setMaxListeners(0, stop.signal);
  const waiting = Array.from({ length: 20 }, () => rig.guest.client.accept(stop.signal).catch(() => {}));
  await until(async () => (await descriptorsOf(rig.relay)) === before + 20);
  stop.abort();
  await Promise.all(waiting);
  await until(async () => (await descriptorsOf(rig.relay)) === before);
  await expect.poll(() => childrenOf(rig.guest.pid)).toEqual([rig.relay]);
});

it.each(["SIGKILL", "SIGSTOP"] as const)("has a relay again after a payload's %s", async (signal) => {
  await using rig = await startProxied();
  const before = await descriptorsOf(rig.relay);
  const lost = expectFailure(rig.accept(), "guest_failed");
  await until(async () => (await descriptorsOf(rig.relay)) > before);
  process.kill(rig.relay, signal);
  await lost;
  const accepting = rig.accept();
  const program = rig.program();
  program.write("again");
  const host = await accepting;
  expect(String((await once(host, "data"))[0])).toBe("again");
  await expect.poll(() => childrenOf(rig.guest.pid)).not.toContain(rig.relay);
  program.destroy();
  host.destroy();
});

describe("what a guest says of a connection", () => {
  const accepting = async (payload: Buffer) => {
    const [near, far] = await socketPair();
    far.once("data", () =>
      far.write(Buffer.concat([frame(replies.ok, payload), Buffer.from("first bytes")])),
    );
    try {
      const { socket, target } = await createGuestClient(async () => near).accept(
        new AbortController().signal,
      );
      return { target, first: String(await new Promise((resolve) => socket.once("data", resolve))) };
    } finally {
      near.destroy();
      far.destroy();
    }
  };
  const captured = (host: string, port: number) =>
    Buffer.concat([Buffer.from([1]), encodeFrame(replies.ok).str(host).u16(port).finish().subarray(5)]);

  it("is where it was to lead", async () => {
    expect(await accepting(Buffer.from([0]))).toEqual({ first: "first bytes" });
    const target = { host: "example.com", port: 443 };
    expect(await accepting(captured("example.com", 443))).toEqual({ target, first: "first bytes" });
  });

  it.each([
    ["nothing", Buffer.alloc(0)],
    ["a kind that there is not", Buffer.from([2])],
    ["more than there is to say", Buffer.from([0, 0])],
    ["no port", captured("example.com", 0)],
    ["half a name", captured("example.com", 443).subarray(0, 7)],
    ["a name beyond all names", captured("a".repeat(256), 443)],
  ])("is refused when it is %s", async (_what, payload) => {
    await expectFailure(accepting(payload), "guest_failed");
  });
});

it("says that there is no such port", async () => {
  await using guest = await startGuest();
  await expectFailure(
    guest.client.accept(new AbortController().signal),
    "unsupported",
    "guest_failed",
    "invalid_request",
  );
});
