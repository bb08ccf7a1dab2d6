import { mkdtemp, rm } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createGuestClient, type GuestTimeouts } from "../../src/guest/client.ts";
import type { GuestClient } from "../../src/guest/types.ts";
import { collect, connectTo, frame, until } from "./harness.ts";

/** For what shows in time only; a busy machine may need more for an answer that comes. */
const hurried = { answerMs: 300, spawnMs: 300, stallMs: 300, listMs: 900, removeMs: 300 };

const OK = 0x80;
const ERROR = 0x81;
const STARTED = 0x83;
const STDOUT = 0x84;
const STDERR = 0x85;
const EXIT = 0x86;
const STAT = 0x87;
const ENTRY = 0x88;
const DATA = 0x89;
const END = 0x8a;
const EVENT = 0x8b;

let dir: string;
let server: net.Server | undefined;
let sockets: net.Socket[] = [];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "warren-hostile-"));
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  sockets = [];
  const closing = server;
  server = undefined;
  if (closing) await new Promise((resolve) => closing.close(resolve));
  await rm(dir, { recursive: true });
});

/** A guest that does what it likes. */
async function fakeGuest(
  behave: (socket: net.Socket) => void,
  timeouts: Partial<GuestTimeouts> = {},
): Promise<GuestClient> {
  const path = join(dir, "sock");
  server = net.createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    behave(socket);
  });
  await new Promise<void>((resolve) => server?.listen(path, resolve));
  return createGuestClient(() => connectTo(path), timeouts);
}

/** Answers as soon as the request has come. */
const answer =
  (...frames: Buffer[]) =>
  (socket: net.Socket) => {
    socket.once("data", () => socket.write(Buffer.concat(frames)));
  };

/** Every operation, for what must be the same for all. */
const operations: Record<string, (client: GuestClient) => Promise<unknown>> = {
  hello: (c) => c.hello(),
  spawn: (c) => c.spawn({ argv: ["x"], env: {} }),
  "waitMain.started": (c) => c.waitMain().started,
  shutdown: (c) => c.shutdown(0),
  readFile: (c) => c.readFile("/f"),
  writeFile: (c) => c.writeFile("/f", Buffer.from("x")),
  stat: (c) => c.stat("/f"),
  list: (c) => c.list("/"),
  mkdir: (c) => c.mkdir("/d"),
  rename: (c) => c.rename("/a", "/b"),
  remove: (c) => c.remove("/f", { recursive: true }),
  chmod: (c) => c.chmod("/f", 0),
  watch: (c) => c.watch("/", { signal: new AbortController().signal })[Symbol.asyncIterator]().next(),
  dial: (c) => c.dial(80, { timeoutMs: 1 }),
};

const guestFailed = { code: "guest_failed", message: expect.any(String) };
const silent = { code: "guest_failed", message: expect.stringContaining("did not answer within") };

describe.each(Object.entries(operations))("%s", (_name, operation) => {
  const behaviours: Record<string, (socket: net.Socket) => void> = {
    "a guest that never answers": () => {},
    "a guest that closes at once": (s) => s.destroy(),
    "a guest that closes after the request": (s) => s.once("data", () => s.end()),
    "half a frame and then silence": answer(Buffer.from([9, 0, 0])),
    "half a frame and then the end": (s) => s.once("data", () => s.end(Buffer.from([9, 0, 0, 0, 0x82, 1]))),
    "a huge length": answer(Buffer.from([255, 255, 255, 255, 0x80])),
    "a huge streamed length": answer(Buffer.from([255, 255, 255, 127, STDOUT])),
    "an unknown type": answer(frame(0x01, Buffer.from("x"))),
    text: answer(Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n")),
    zeros: answer(Buffer.alloc(100_000)),
    "a truncated error": answer(frame(ERROR, Buffer.from([1, 0]))),
    "an error with a lying length": answer(frame(ERROR, Buffer.from([1, 0, 0, 0, 255, 255, 255, 255]))),
    "a frame of another operation": answer(frame(EVENT, Buffer.alloc(8))),
  };
  it.each(Object.entries(behaviours))("fails in bounded time for %s", async (_what, behave) => {
    const client = await fakeGuest(behave, hurried);
    await expect(operation(client)).rejects.toMatchObject(guestFailed);
    // The connection is not left open.
    for (const socket of sockets) socket.resume();
    await until(() => sockets.every((s) => s.readableEnded || s.destroyed));
  });
});

it("nobody there is guest_failed", async () => {
  const client = createGuestClient(() => connectTo(join(dir, "nobody")));
  await expect(client.hello()).rejects.toMatchObject({ code: "guest_failed" });
});

it("a connection that never comes about is guest_failed, and dropped when it does", async () => {
  const late = new PassThrough();
  let connected: (socket: PassThrough) => void = () => {};
  const client = createGuestClient(
    () =>
      new Promise((resolve) => {
        connected = resolve;
      }),
    hurried,
  );
  await expect(client.hello()).rejects.toMatchObject({ code: "guest_failed" });
  connected(late);
  await until(() => late.destroyed);
});

describe("a running command", () => {
  const started = frame(STARTED, Buffer.from([7, 0, 0, 0]));
  const exited = frame(EXIT, Buffer.alloc(17));

  it("that ends without EXIT fails the exit and the output, after what came", async () => {
    const client = await fakeGuest((s) =>
      s.once("data", () => s.end(Buffer.concat([started, frame(STDOUT, Buffer.from("x"))]))),
    );
    const session = await client.spawn({ argv: ["x"], env: {} });
    await expect(session.exit).rejects.toMatchObject(guestFailed);
    const output = session.output[Symbol.asyncIterator]();
    expect(await output.next()).toMatchObject({ value: { stream: "stdout" } });
    await expect(output.next()).rejects.toMatchObject(guestFailed);
  });

  it.each([
    ["a second STARTED", started],
    ["file data", frame(DATA, Buffer.from("x"))],
    ["an EXIT that is too short", frame(EXIT, Buffer.alloc(16))],
    ["an EXIT that is too long", frame(EXIT, Buffer.alloc(18))],
    ["an EXIT with a signal that is none", frame(EXIT, Buffer.from([1, 200, ...Array(15).fill(0)]))],
    ["an EXIT of another kind", frame(EXIT, Buffer.from([2, ...Array(16).fill(0)]))],
  ])("fails for %s", async (_what, bad) => {
    const client = await fakeGuest(answer(started, bad));
    const session = await client.spawn({ argv: ["x"], env: {} });
    await expect(session.exit).rejects.toMatchObject(guestFailed);
  });

  it("ignores what follows EXIT", async () => {
    const client = await fakeGuest(answer(started, exited, Buffer.alloc(10_000, 0xee)));
    expect(await collect(await client.spawn({ argv: ["x"], env: {} }))).toMatchObject({ exit_code: 0 });
  });

  it("whose output floods in is held up while nobody reads", async () => {
    let sent = 0;
    const block = frame(STDOUT, Buffer.alloc(100_000));
    const client = await fakeGuest((socket) => {
      socket.once("data", () => {
        socket.write(started);
        const more = (): void => {
          while (!socket.destroyed) {
            sent += block.length;
            if (!socket.write(block)) return void socket.once("drain", more);
          }
        };
        more();
      });
    });
    const session = await client.spawn({ argv: ["x"], env: {} });
    let before = -1;
    await until(async () => {
      const isStill = sent === before;
      before = sent;
      await new Promise((resolve) => setTimeout(resolve, 50));
      return isStill;
    });
    expect(sent).toBeLessThan(4 << 20);
    // A guest that goes on after KILL is not listened to for ever.
    await session.kill();
    expect(await session.exit).toMatchObject({ exit_code: 137 });
  });

  it.each([
    ["STDOUT", STDOUT],
    ["STDERR", STDERR],
  ])("whose %s comes without a byte is lost", async (_name, type) => {
    const client = await fakeGuest(answer(started, frame(type)));
    const session = await client.spawn({ argv: ["x"], env: {} });
    await expect(session.exit).rejects.toMatchObject(guestFailed);
  });

  it("whose output comes in one-byte frames is held up too", async () => {
    let sent = 0;
    const block = Buffer.concat(Array(5000).fill(frame(STDOUT, Buffer.from("x"))));
    const client = await fakeGuest((socket) => {
      socket.once("data", () => {
        socket.write(started);
        const more = (): void => {
          while (!socket.destroyed) {
            sent += block.length;
            if (!socket.write(block)) return void socket.once("drain", more);
          }
        };
        more();
      });
    });
    const session = await client.spawn({ argv: ["x"], env: {} });
    let before = -1;
    await until(async () => {
      const isStill = sent === before;
      before = sent;
      await new Promise((resolve) => setTimeout(resolve, 50));
      return isStill;
    });
    expect(sent).toBeLessThan(4 << 20);
    await session[Symbol.asyncDispose]();
  });

  it("that is killed while the guest ignores it ends all the same", async () => {
    const client = await fakeGuest(answer(started));
    const session = await client.spawn({ argv: ["x"], env: {} });
    await session.kill();
    expect(await session.exit).toMatchObject({ exit_code: 137, signal: "SIGKILL" });
  });

  it("whose stdin is never taken holds up the writer only", async () => {
    const client = await fakeGuest((s) => {
      s.once("data", () => s.pause().write(started));
    });
    const session = await client.spawn({ argv: ["x"], env: {}, stdin: true });
    let isWritten = false;
    const writing = session.write(Buffer.alloc(16 << 20)).then(
      () => {
        isWritten = true;
      },
      () => {},
    );
    await session.kill();
    expect(isWritten).toBe(false);
    await writing;
  });
});

const stat = (size: number): Buffer => {
  const record = Buffer.alloc(36);
  record.writeUInt32LE(0o100644, 0);
  record.writeBigUInt64LE(BigInt(size), 12);
  return record;
};

describe("a file", () => {
  it.each([
    ["data before its STAT", [frame(DATA, Buffer.from("x"))]],
    ["a size beyond what a number holds", [frame(STAT, Buffer.from(stat(0).fill(255, 12, 20)))]],
    ["a target with a NUL", [frame(STAT, Buffer.concat([stat(1).fill(1, 32, 33), Buffer.alloc(1)]))]],
    ["bytes after the STAT", [frame(STAT, Buffer.concat([stat(1), Buffer.from("x")]))]],
  ])("fails at once for %s", async (_what, frames) => {
    const client = await fakeGuest(answer(...frames));
    await expect(client.readFile("/f")).rejects.toMatchObject(guestFailed);
  });

  it.each([
    ["a second STAT", [frame(STAT, stat(1))]],
    ["an END that lies", [frame(DATA, Buffer.from("x")), frame(END, Buffer.from([2, 0, 0, 0, 0, 0, 0, 0]))]],
    ["more than was asked for", [frame(DATA, Buffer.alloc(11))]],
    ["data without a byte", [frame(DATA)]],
    ["silence in the middle", [frame(DATA, Buffer.from("x"))]],
  ])("fails in its body for %s", async (_what, frames) => {
    const client = await fakeGuest(answer(frame(STAT, stat(1)), ...frames), { stallMs: hurried.stallMs });
    const { body } = await client.readFile("/f", { length: 10 });
    const read = async () => {
      for await (const _ of body);
    };
    await expect(read()).rejects.toMatchObject(guestFailed);
  });

  it("does not time out while its reader is slow", async () => {
    const client = await fakeGuest(
      (socket) => {
        socket.once("data", () => {
          socket.write(frame(STAT, stat(0)));
          for (let i = 0; i < 20; i++) socket.write(frame(DATA, Buffer.alloc(100_000)));
          socket.write(frame(END, Buffer.from(new BigUint64Array([2_000_000n]).buffer)));
        });
      },
      { stallMs: hurried.stallMs },
    );
    const { body } = await client.readFile("/f");
    await new Promise((resolve) => setTimeout(resolve, 2 * hurried.stallMs));
    let bytes = 0;
    for await (const chunk of body) bytes += chunk.length;
    expect(bytes).toBe(2_000_000);
  });

  it("whose answer comes in drops fails when the time for the next frame is over", async () => {
    const client = await fakeGuest(
      (socket) => {
        socket.once("data", () => {
          // The header of an error whose text takes minutes.
          socket.write(
            Buffer.concat([frame(STAT, stat(1)), frame(ERROR, Buffer.alloc(60_000)).subarray(0, 5)]),
          );
          drip(socket, Buffer.from("x"));
        });
      },
      { stallMs: hurried.stallMs },
    );
    const { body } = await client.readFile("/f");
    const read = async () => {
      for await (const _ of body);
    };
    await expect(read()).rejects.toMatchObject(silent);
  });

  it("that the guest does not take fails", async () => {
    const client = await fakeGuest((socket) => socket.pause(), hurried);
    await expect(client.writeFile("/f", Buffer.alloc(16 << 20))).rejects.toMatchObject(guestFailed);
  });

  it("whose sender is slow does not time out", async () => {
    const client = await fakeGuest(
      (socket) => {
        socket.on("data", (part: Buffer) => {
          if (part.at(-1) === 0x41) socket.write(frame(END, Buffer.from(new BigUint64Array([1n]).buffer)));
        });
      },
      { stallMs: hurried.stallMs },
    );
    async function* body() {
      await new Promise((resolve) => setTimeout(resolve, 2 * hurried.stallMs));
      yield Buffer.from("x");
    }
    expect(await client.writeFile("/f", body())).toEqual({ bytes: 1 });
  });

  it("that was written with another length fails", async () => {
    const client = await fakeGuest((socket) => {
      socket.on("data", (part: Buffer) => {
        if (part.at(-1) === 0x41) socket.write(frame(END, Buffer.alloc(8)));
      });
    });
    await expect(client.writeFile("/f", Buffer.from("x"))).rejects.toMatchObject(guestFailed);
    await expect(
      (await fakeGuestAgain(answer(frame(OK)))).writeFile("/f", Buffer.from("x")),
    ).rejects.toMatchObject(guestFailed);
  });
});

/** Sends the same bytes again and again, sooner each time than a stall would be seen. */
function drip(socket: net.Socket, bytes: Buffer): void {
  const timer = setInterval(() => socket.write(bytes), hurried.stallMs / 6);
  socket.on("close", () => clearInterval(timer));
}

async function fakeGuestAgain(behave: (socket: net.Socket) => void): Promise<GuestClient> {
  const closing = server;
  for (const socket of sockets) socket.destroy();
  await new Promise((resolve) => closing?.close(resolve));
  return fakeGuest(behave);
}

describe("a listing", () => {
  const entry = (name: Buffer, target = Buffer.alloc(0)): Buffer => {
    const length = (b: Buffer): Buffer => {
      const l = Buffer.alloc(4);
      l.writeUInt32LE(b.length);
      return l;
    };
    return frame(ENTRY, Buffer.concat([length(name), name, stat(1).subarray(0, 32), length(target), target]));
  };

  it.each([
    ["a path for a name", entry(Buffer.from("../etc"))],
    ["no name", entry(Buffer.alloc(0))],
    ["the directory itself", entry(Buffer.from("."))],
    ["its parent", entry(Buffer.from(".."))],
    ["a name with a NUL", entry(Buffer.from("a\0b"))],
    ["a name that is too long", entry(Buffer.alloc(256, "n"))],
    ["a target that is too long", entry(Buffer.from("a"), Buffer.alloc(5000, "t"))],
    ["a target with a NUL", entry(Buffer.from("a"), Buffer.from("/etc\0"))],
    ["data without a byte", Buffer.concat([entry(Buffer.from("a")), frame(DATA)])],
    ["a wrong count", Buffer.concat([entry(Buffer.from("a")), frame(END, Buffer.alloc(8))])],
  ])("fails for %s", async (_what, bytes) => {
    const client = await fakeGuest(answer(bytes));
    await expect(client.list("/")).rejects.toMatchObject(guestFailed);
  });

  it("takes names of dots and of the greatest length", async () => {
    const names = ["...", "..a", ".a", "n".repeat(255)];
    const count = Buffer.from([names.length, 0, 0, 0, 0, 0, 0, 0]);
    const client = await fakeGuest(
      answer(...names.map((name) => entry(Buffer.from(name))), frame(END, count)),
    );
    expect((await client.list("/")).map((info) => info.name)).toEqual(names);
  });

  it("that goes on and on fails when the time for all of it is over", async () => {
    const client = await fakeGuest((socket) => drip(socket, entry(Buffer.from("a"))), hurried);
    await expect(client.list("/")).rejects.toMatchObject(silent);
  });

  it("without an end fails in bounded memory", async () => {
    const block = Buffer.concat(Array(1000).fill(entry(Buffer.from("n".repeat(200)))));
    const client = await fakeGuest((socket) => {
      socket.once("data", () => {
        const more = (): void => {
          while (!socket.destroyed) if (!socket.write(block)) return void socket.once("drain", more);
        };
        more();
      });
    });
    await expect(client.list("/")).rejects.toMatchObject({
      code: expect.stringMatching(/guest_failed|too_large/),
    });
  });
});

it("an event's path has no NUL", async () => {
  const path = Buffer.from("a\0b");
  const event = frame(EVENT, Buffer.concat([Buffer.from([1, 0, 0, 0, path.length, 0, 0, 0]), path]));
  const client = await fakeGuest(answer(frame(OK), event));
  const events = client.watch("/", { signal: new AbortController().signal });
  await expect(events[Symbol.asyncIterator]().next()).rejects.toMatchObject(guestFailed);
});

it("an error's text is shown in one line, and by our words for its number", async () => {
  const text = Buffer.from("a\n\x1b[31mb");
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  const client = await fakeGuest(
    answer(frame(ERROR, Buffer.concat([Buffer.from([2, 0, 0, 0]), length, text]))),
  );
  await expect(client.spawn({ argv: ["x"], env: {} })).rejects.toMatchObject({
    code: "file_not_found",
    message: "a??[31mb: no such file or directory",
  });
  await expect(client.stat("/x\ny")).rejects.toMatchObject({
    message: '"/x\\ny": no such file or directory',
  });
});
