import { randomBytes } from "node:crypto";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import { createGuestClient } from "../../src/guest/client.ts";
import type { GuestClient } from "../../src/guest/types.ts";
import {
  type Behaviour,
  exitZero,
  flood,
  frame,
  type Impostor,
  replies,
  requests,
  startImpostor,
  stat,
  str,
  u32,
  u64,
} from "./support/impostor.ts";

const MIB = 1024 ** 2;
/** The client's times, so short that a test can wait for them. */
const WAIT_MS = 250;
const timeouts = { answerMs: WAIT_MS, spawnMs: WAIT_MS, stallMs: WAIT_MS, removeMs: WAIT_MS };
/** What a call may take in all: its own time, the time of a kill, and a busy machine's. */
const BOUND_MS = 20_000;
const GROWTH_BYTES = 150 * MIB;

let dir: string;
let impostor: Impostor;
let client: GuestClient;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "warren-impostor-"));
  impostor = await startImpostor(join(dir, "guest.sock"), () => {});
  client = createGuestClient(impostor.connect, timeouts);
});
afterEach(() => impostor.drop());
afterAll(async () => {
  await impostor[Symbol.asyncDispose]();
  await rm(dir, { recursive: true });
});

async function take(body: AsyncIterable<Uint8Array>, most: number): Promise<number> {
  let bytes = 0;
  for await (const chunk of body) {
    bytes += chunk.length;
    if (bytes >= most) break;
  }
  return bytes;
}

/** Each call of the client, with its answer taken in as a careful caller does: up to a limit. */
const calls: Record<string, () => Promise<unknown>> = {
  hello: () => client.hello(),
  async spawn() {
    await using session = await client.spawn({ argv: ["x"], env: {}, timeoutMs: WAIT_MS });
    const kill = () => void session.kill().catch(() => {}); // told by `exit` as well
    // The client itself gives a guest ten seconds more than its deadline; who is in a hurry kills.
    const timer = setTimeout(kill, 4 * WAIT_MS);
    let bytes = 0;
    for await (const { data } of session.output) {
      bytes += data.length;
      if (bytes > 4 * MIB) break;
    }
    if (bytes > 4 * MIB) kill();
    return await session.exit.finally(() => clearTimeout(timer));
  },
  waitMain: async () => await client.waitMain({ signal: AbortSignal.timeout(2 * WAIT_MS) }).exit,
  shutdown: () => client.shutdown(100),
  readFile: async () => await take((await client.readFile("/x")).body, 4 * MIB),
  "readFile of a part": async () => await take((await client.readFile("/x", { length: 10 })).body, 4 * MIB),
  writeFile: () => client.writeFile("/x", Buffer.alloc(4 * MIB)),
  stat: () => client.stat("/x"),
  list: () => client.list("/x"),
  mkdir: () => client.mkdir("/x"),
  rename: () => client.rename("/x", "/y"),
  remove: () => client.remove("/x", { recursive: true }),
  chmod: () => client.chmod("/x", 0o644),
  async watch() {
    const events: unknown[] = [];
    for await (const event of client.watch("/x", { signal: AbortSignal.timeout(2 * WAIT_MS) })) {
      if (events.push(event) > 2000) break;
    }
    return events.length;
  },
  async dial() {
    const socket = await client.dial(80, { timeoutMs: WAIT_MS });
    socket.on("error", () => {}).destroy();
  },
};

async function residentBytes(): Promise<number> {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(await readFile("/proc/self/status", "utf8"))?.[1]) * 1024;
}

/** Makes every call; each is answered, in time and memory, with a value or a WarrenError that is not our own fault. */
async function survives(behaviour: Behaviour): Promise<Map<string, string>> {
  impostor.behaviour = behaviour;
  const before = await residentBytes();
  const outcomes = new Map<string, string>();
  await Promise.all(
    Object.entries(calls).map(async ([name, call]) => {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new Error(`${name} is not answered`)), BOUND_MS);
      });
      try {
        await Promise.race([call(), late]);
        outcomes.set(name, "ok");
      } catch (error) {
        if (!(error instanceof WarrenError)) throw error;
        expect(error.message).not.toMatch(/\p{Cc}/u);
        expect(error.message.length).toBeLessThan(2000);
        outcomes.set(name, error.code);
      } finally {
        clearTimeout(timer);
      }
    }),
  );
  expect([...outcomes.values()]).not.toContain("internal");
  expect((await residentBytes()) - before).toBeLessThan(GROWTH_BYTES);
  await expect.poll(() => impostor.open, { timeout: 20_000 }).toBe(0);
  return outcomes;
}

const openings: Record<number, Buffer> = {
  [requests.spawn]: frame(replies.started, u32(2)),
  [requests.read]: frame(replies.stat, stat({ size: 10n })),
};
/** Begins as a good guest would, then goes on as `then` says. */
const beginWell =
  (then: Behaviour): Behaviour =>
  (socket, request) => {
    socket.write(openings[request.type] ?? "");
    then(socket, request);
  };
const say =
  (...bytes: Uint8Array[]): Behaviour =>
  (socket) =>
    void socket.write(Buffer.concat(bytes));
const huge = 0xffff_ffff;

const behaviours: Record<string, Behaviour> = {
  "never answers": () => {},
  "closes at once": (socket) => void socket.end(),
  // A Unix socket that is closed with bytes unread gives the other side ECONNRESET.
  "resets at once": (socket) => void socket.destroy(),
  "sends half a header and waits": say(Buffer.from([1, 2])),
  "sends half a frame and waits": say(frame(replies.stat, Buffer.alloc(10), 1000)),
  "sends half a frame and closes": (socket) => void socket.end(frame(replies.stat, Buffer.alloc(10), 1000)),
  "sends random bytes": (socket) => flood(socket, randomBytes(65_536)),
  "sends frames of unknown types": say(...Array.from({ length: 128 }, (_, type) => frame(type))),
  "asks us instead of answering": say(
    frame(requests.spawn, Buffer.alloc(100)),
    frame(0x40, Buffer.from("x")),
  ),
  "answers with an error without a number": say(frame(replies.error, Buffer.concat([u32(0), str("fine")]))),
  "answers with an unknown error": say(
    frame(replies.error, Buffer.concat([u32(99_999), str("\x1b]0;owned\x07\n\r\0")])),
  ),
  "answers with an error of the largest size": say(
    frame(replies.error, Buffer.concat([u32(2), str("A".repeat(65_528))])),
  ),
  "answers with an error whose text is longer than its frame": say(
    frame(replies.error, Buffer.concat([u32(2), u32(huge)])),
  ),
  "floods with OK": (socket) =>
    flood(socket, Buffer.concat(Array.from({ length: 1000 }, () => frame(replies.ok)))),
  "floods with STARTED": (socket) =>
    flood(socket, Buffer.concat(Array.from({ length: 1000 }, () => frame(replies.started, u32(1))))),
  "floods with output": beginWell((socket) => flood(socket, frame(replies.stdout, Buffer.alloc(131_072)))),
  "floods with output of one byte": beginWell((socket) =>
    flood(
      socket,
      Buffer.concat(Array.from({ length: 10_000 }, () => frame(replies.stdout, Buffer.from("x")))),
    ),
  ),
  "floods with data": beginWell((socket) => flood(socket, frame(replies.data, Buffer.alloc(131_072)))),
  "floods with entries": (socket) => {
    flood(
      socket,
      Buffer.concat(
        Array.from({ length: 500 }, () => frame(replies.entry, Buffer.concat([str("x"), stat()]))),
      ),
    );
  },
  "floods with large entries": (socket) =>
    flood(socket, frame(replies.entry, Buffer.concat([str("x".repeat(60_000)), stat()]))),
  "floods with events": (socket) => {
    socket.write(frame(replies.ok));
    flood(
      socket,
      Buffer.concat(
        Array.from({ length: 1000 }, () => frame(replies.event, Buffer.concat([u32(1), str("/x")]))),
      ),
    );
  },
  "floods with large events": (socket) => {
    socket.write(frame(replies.ok));
    flood(socket, frame(replies.event, Buffer.concat([u32(1), str("x".repeat(65_000))])));
  },
  "begins well and falls silent": beginWell(() => {}),
  "begins well and closes": beginWell((socket) => void socket.end()),
  "ends with a status that can't be": beginWell(say(frame(replies.exit, Buffer.alloc(17, 0xff)))),
  "tells a file of an impossible size": say(
    frame(replies.stat, stat({ size: 2n ** 64n - 1n })),
    frame(replies.end, u64(2n ** 64n - 1n)),
  ),
  "tells a time that can't be": say(
    frame(replies.stat, stat({ seconds: -(2n ** 63n), ns: huge, mode: huge })),
  ),
  "tells a target without an end": say(frame(replies.stat, stat({ target: "x".repeat(65_000) }))),
  "tells an end that was not reached": beginWell(say(frame(replies.end, u64(2n ** 53n)))),
};
for (const [name, type] of Object.entries(replies)) {
  behaviours[`tells the length of a ${name} frame as 4 GiB`] = say(frame(type, Buffer.alloc(64), huge));
  behaviours[`answers all with an empty ${name} frame`] = say(frame(type));
}

describe("a guest that", () => {
  it.each(Object.keys(behaviours))("%s", async (name) => {
    const outcomes = await survives(behaviours[name] as Behaviour);
    if (/^(never|closes|resets|sends|tells the length)/.test(name)) {
      for (const [call, outcome] of outcomes) {
        // Whoever gives up by himself is told so.
        expect([call, outcome]).toEqual([call, expect.stringMatching(/^(guest_failed|cancelled)$/)]);
      }
    }
  });

  it("sends well-formed frames at random", async () => {
    // A linear congruential generator: the same frames in each run.
    let seed = 12_345;
    const random = (below: number) => {
      seed = (seed * 1_103_515_245 + 12_345) & 0x7fff_ffff;
      return seed % below;
    };
    const kinds = Object.values(replies);
    for (let i = 0; i < 12; i++) {
      await survives(
        beginWell((socket) => {
          for (let j = 0; j < 200; j++) {
            const payload = Buffer.from(
              Array.from({ length: random(80) }, () => (random(3) === 0 ? random(256) : 0)),
            );
            socket.write(frame(kinds[random(kinds.length)] ?? 0, payload));
          }
          socket.end();
        }),
      );
    }
  });

  it.each(["list", "readFile"])(
    "goes on with frames without content is not waited for by %s",
    async (name) => {
      // They carry nothing: a guest that sends only them has stalled.
      const start: Record<number, Buffer> = {
        ...openings,
        [requests.list]: frame(replies.entry, Buffer.concat([str("x"), stat()])),
      };
      const empty = Buffer.concat(Array.from({ length: 100 }, () => frame(replies.data)));
      impostor.behaviour = (socket, request) => {
        socket.write(start[request.type] ?? "");
        const timer = setInterval(() => socket.write(empty), WAIT_MS / 10);
        socket.on("close", () => clearInterval(timer));
      };
      const call = calls[name] as () => Promise<unknown>;
      const answer = call().catch((error: unknown) => (error as WarrenError).code);
      const late = new Promise((resolve) => setTimeout(resolve, BOUND_MS, "not answered"));
      expect(await Promise.race([answer, late])).toBe("guest_failed");
    },
  );

  it("goes on after EXIT is not listened to", async () => {
    impostor.behaviour = beginWell((socket) => {
      socket.write(Buffer.concat([frame(replies.stdout, Buffer.from("mine")), exitZero]));
      flood(socket, frame(replies.stdout, Buffer.from("late")));
    });
    // In no hurry: here the answer comes.
    await using session = await createGuestClient(impostor.connect).spawn({ argv: ["x"], env: {} });
    let text = "";
    for await (const { data } of session.output) text += Buffer.from(data).toString();
    expect(text).toBe("mine");
    expect((await session.exit).exit_code).toBe(0);
    await expect.poll(() => impostor.open, { timeout: 20_000 }).toBe(0);
  });

  it.each(["../escape", "a/b", "/", "..", ".", "", "nul\0byte"])(
    "lists an entry of the name %j is believed nothing",
    async (name) => {
      impostor.behaviour = say(
        frame(replies.entry, Buffer.concat([str(name), stat()])),
        frame(replies.end, u64(1n)),
      );
      await expect(client.list("/x")).rejects.toMatchObject({ code: "guest_failed" });
    },
  );

  it("lists more than 100 000 entries is refused, in bounded memory", async () => {
    const before = await residentBytes();
    impostor.behaviour = (socket) => {
      for (let i = 0; i < 101; i++) {
        const entries = Array.from({ length: 1000 }, (_, j) =>
          frame(replies.entry, Buffer.concat([str(`${i}.${j}`), stat()])),
        );
        socket.write(Buffer.concat(entries));
      }
      socket.write(frame(replies.end, u64(101_000n)));
    };
    await expect(client.list("/x")).rejects.toMatchObject({
      code: expect.stringMatching(/^(too_large|guest_failed)$/),
    });
    expect((await residentBytes()) - before).toBeLessThan(GROWTH_BYTES);
  });

  it("takes a file to be written before it has come, or another length of it, is not believed", async () => {
    impostor.behaviour = say(frame(replies.end, u64(3n)));
    async function* slowly() {
      yield Buffer.from("abc");
      await new Promise((resolve) => setTimeout(resolve, 50));
      yield Buffer.from("def");
    }
    await expect(client.writeFile("/x", slowly())).rejects.toMatchObject({ code: "guest_failed" });
    impostor.behaviour = (socket) => {
      socket.resume();
      setTimeout(() => socket.write(frame(replies.end, u64(5n))), 50);
    };
    await expect(client.writeFile("/x", Buffer.from("abc"))).rejects.toMatchObject({ code: "guest_failed" });
  });

  it("fails 120 calls leaves no descriptor open", async () => {
    const descriptors = async () => (await readdir("/proc/self/fd")).length;
    const before = await descriptors();
    const list = ["closes at once", "resets at once", "floods with output", "floods with entries"];
    for (let i = 0; i < 8; i++) await survives(behaviours[list[i % list.length] as string] as Behaviour);
    await expect.poll(descriptors, { timeout: 20_000 }).toBeLessThanOrEqual(before + 5);
  });
});
