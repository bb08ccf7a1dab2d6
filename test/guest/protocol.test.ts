import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { childrenOf, drain, frame, processStatus, startGuest, type TestGuest, until } from "./harness.ts";

/** A thousand processes take their time on a busy machine. */
const SLOW_MS = 60_000;

let guest: TestGuest;
beforeAll(async () => {
  guest = await startGuest();
});
afterAll(() => guest[Symbol.asyncDispose]());

const isWell = async () => expect(await guest.client.hello()).toMatchObject({ protocol: 1 });

async function send(bytes: Buffer): Promise<Buffer> {
  const socket = await guest.connect();
  socket.on("error", () => {});
  const answer = drain(socket);
  socket.end(bytes);
  const received = await answer;
  socket.destroy();
  return received;
}

function u32(n: number): Buffer {
  const b = Buffer.alloc(4);
  b.writeUInt32LE(n);
  return b;
}

describe("the guest", () => {
  it("answers what it does not understand with ERROR, or closes that connection only", async () => {
    const bad = {
      "an unknown type": frame(0x7f),
      "a request over 1 MiB": Buffer.concat([u32((1 << 20) + 1), Buffer.from([0x10])]),
      "a length of 4 GiB": Buffer.concat([u32(0xffff_ffff), Buffer.from([0x02])]),
      "an empty SPAWN": frame(0x02),
      "an empty READ": frame(0x10),
      "an empty WRITE": frame(0x11),
      "a string beyond the payload": frame(0x12, u32(100)),
      "a string with a NUL": frame(0x12, Buffer.concat([u32(3), Buffer.from("/\0a"), u32(0)])),
      "a path that is not absolute": frame(0x12, Buffer.concat([u32(1), Buffer.from("a"), u32(0)])),
      "a list that is longer than its payload": frame(
        0x02,
        Buffer.concat([Buffer.alloc(20), u32(0), u32(0), u32(0x3fff_ffff)]),
      ),
    };
    for (const [what, bytes] of Object.entries(bad)) {
      expect((await send(bytes)).subarray(4, 5), what).toEqual(Buffer.from([0x81]));
    }
    expect(await send(Buffer.from([1, 0]))).toEqual(Buffer.alloc(0));
    await isWell();
  });

  it("survives random requests", async () => {
    // Only types that change nothing, or a payload that can't be a whole request: this runs on a real filesystem.
    const harmless = fc.record({
      type: fc.constantFrom(0x00, 0x01, 0x10, 0x12, 0x13, 0x40, 0x80, 0xff),
      payload: fc.uint8Array({ maxLength: 200 }),
    });
    const broken = fc.record({
      type: fc.constantFrom(0x02, 0x11, 0x14, 0x15, 0x16, 0x17, 0x18, 0x20),
      // The first string is longer than all that there is, in whichever field it comes.
      payload: fc.uint8Array({ maxLength: 60 }).map((tail) => Buffer.concat([Buffer.alloc(64, 0xff), tail])),
    });
    await fc.assert(
      fc.asyncProperty(fc.oneof(harmless, broken), fc.nat(20), async ({ type, payload }, missing) => {
        const bytes = frame(type, payload);
        await send(bytes.subarray(0, Math.max(1, bytes.length - (type > 0x12 ? 0 : missing))));
      }),
      { numRuns: 300 },
    );
    await isWell();
    await until(async () => (await childrenOf(guest.pid)).length === 0);
  });

  it("ends a command whose host breaks the protocol", async () => {
    const text = (s: string) => Buffer.concat([u32(Buffer.byteLength(s)), Buffer.from(s)]);
    const spawn = frame(
      0x02,
      Buffer.concat([
        u32(2),
        Buffer.alloc(16),
        text(""),
        text(""),
        u32(2),
        text("/bin/sleep"),
        text("1000"),
        u32(0),
      ]),
    );
    for (const bad of [
      frame(0x7f),
      frame(0x43, Buffer.from([9])),
      frame(0x44, Buffer.from("x")),
      Buffer.concat([u32((128 << 10) + 1), Buffer.from([0x40])]),
      Buffer.from([0xff, 0xff, 0xff, 0xff, 0x42]),
    ]) {
      const socket = await guest.connect();
      socket.on("error", () => {});
      const answer = drain(socket);
      socket.write(Buffer.concat([spawn, bad]));
      expect((await answer).subarray(4, 5)).toEqual(Buffer.from([0x83]));
      socket.destroy();
    }
    await until(async () => (await childrenOf(guest.pid)).length === 0);
    await isWell();
  });

  it("is not held up by connections that say nothing, and takes no more than it can", async () => {
    const silent = await Promise.all(Array.from({ length: 200 }, () => guest.connect()));
    await isWell();
    for (const socket of silent) socket.destroy();
    await until(async () => (await childrenOf(guest.pid)).length === 0);
    expect((await processStatus(guest.pid)).state).toBe("S");
  });

  it(
    "refuses a handler beyond the 1024th, and recovers",
    async () => {
      const silent = [];
      for (let i = 0; i < 1024; i++) silent.push(await guest.connect());
      await until(async () => (await childrenOf(guest.pid)).length === 1024, SLOW_MS);
      await expect(guest.client.hello()).rejects.toMatchObject({ code: "guest_failed" });
      for (const socket of silent) socket.destroy();
      await until(async () => (await childrenOf(guest.pid)).length === 0, SLOW_MS);
      await isWell();
    },
    2 * SLOW_MS,
  );
});
