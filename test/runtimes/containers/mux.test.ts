import { once } from "node:events";
import { type Duplex, PassThrough } from "node:stream";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createOutputDecoder } from "../../../src/runtimes/containers/exec-carrier.ts";
import { type Carrier, createMuxConnector } from "../../../src/runtimes/containers/mux.ts";
import {
  createMuxDecoder,
  MUX_WINDOW_BYTES,
  muxCredit,
  muxFrame,
  muxTypes,
} from "../../../src/runtimes/containers/mux-frames.ts";

const number = (id: number, type: number, value: number): Buffer => {
  const payload = Buffer.alloc(4);
  payload.writeUInt32LE(value);
  return Buffer.concat([muxFrame(id, type, 4), payload]);
};
const ready = number(0, muxTypes.ready, 1);
const guestFailed = { code: "guest_failed" };

/** A carrier whose other side is the test's. */
function pair(): { carrier: Carrier; fromHost: PassThrough; toHost: PassThrough; isClosed: () => boolean } {
  const fromHost = new PassThrough({ highWaterMark: 16 << 10 });
  const toHost = new PassThrough();
  return {
    carrier: {
      sink: fromHost,
      listen(onBytes, onEnd) {
        toHost.on("data", onBytes).on("end", () => onEnd());
      },
      destroy() {
        fromHost.destroy();
        toHost.destroy();
      },
    },
    fromHost,
    toHost,
    isClosed: () => toHost.destroyed,
  };
}

/** A mux that sends back what it gets, in pieces of its own choice; keeps count of what each side may. */
function echoingMux({ fromHost, toHost }: ReturnType<typeof pair>, pieceBytes: number) {
  const streams = new Map<number, { held: Buffer; granted: number; allowed: number; ended: boolean }>();
  const faults: string[] = [];
  let input = Buffer.alloc(0);
  toHost.write(ready);
  const answer = (id: number) => {
    const stream = streams.get(id);
    if (!stream) return;
    while (stream.held.length > 0 && stream.allowed > 0) {
      const piece = stream.held.subarray(0, Math.min(pieceBytes, stream.allowed));
      stream.held = stream.held.subarray(piece.length);
      stream.allowed -= piece.length;
      toHost.write(Buffer.concat([muxFrame(id, muxTypes.data, piece.length), piece]));
      stream.granted += piece.length;
      toHost.write(muxCredit(id, piece.length));
    }
    if (stream.ended && stream.held.length === 0) toHost.write(muxFrame(id, muxTypes.eof));
    if (stream.ended && stream.held.length === 0) streams.delete(id);
  };
  fromHost.on("data", (chunk: Buffer) => {
    input = Buffer.concat([input, chunk]);
    while (input.length >= 8) {
      const length = input.readUInt16LE(6);
      if (input.length < 8 + length) return;
      const [id, type, payload] = [
        input.readUInt32LE(0),
        input[4],
        Buffer.from(input.subarray(8, 8 + length)),
      ];
      input = input.subarray(8 + length);
      const stream = streams.get(id);
      if (type === muxTypes.open) {
        streams.set(id, {
          held: Buffer.alloc(0),
          granted: MUX_WINDOW_BYTES,
          allowed: MUX_WINDOW_BYTES,
          ended: false,
        });
        toHost.write(muxFrame(id, muxTypes.opened));
      } else if (type === muxTypes.data && stream) {
        stream.granted -= length;
        if (stream.granted < 0 || length > 32_768 || length === 0) faults.push(`${length} bytes of data`);
        stream.held = Buffer.concat([stream.held, payload]);
      } else if (type === muxTypes.eof && stream) {
        stream.ended = true;
      } else if (type === muxTypes.credit && stream) {
        stream.allowed += payload.readUInt32LE();
        if (stream.allowed > MUX_WINDOW_BYTES) faults.push("more credit than a window");
      } else if (type === muxTypes.reset) {
        streams.delete(id);
      }
      answer(id);
    }
  });
  return { faults, streams };
}

const connectorOf = (carrier: Carrier) => createMuxConnector(async () => carrier);

async function readAll(stream: Duplex): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

describe("the host's mux", () => {
  it("carries every byte of every stream in its order, within the credit", async () => {
    const streamShape = fc.record({
      writes: fc.array(fc.integer({ min: 0, max: 100_000 }), { maxLength: 8 }),
      waitsToRead: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(streamShape, { minLength: 1, maxLength: 6 }),
        fc.integer({ min: 1000, max: 32_768 }),
        async (shapes, pieceBytes) => {
          const ends = pair();
          const { faults } = echoingMux(ends, pieceBytes);
          const connector = connectorOf(ends.carrier);
          await Promise.all(
            shapes.map(async ({ writes, waitsToRead }, i) => {
              const stream = await connector.connect();
              const sent = writes.map((size, j) => Buffer.alloc(size, (i * 31 + j * 7 + 1) % 256));
              for (const part of sent) stream.write(part);
              stream.end();
              if (waitsToRead) await new Promise((resolve) => setImmediate(resolve));
              expect((await readAll(stream)).equals(Buffer.concat(sent))).toBe(true);
            }),
          );
          connector.close();
          expect(faults).toEqual([]);
        },
      ),
      { numRuns: Number(process.env.WARREN_PROPERTY_SECONDS) > 0 ? 1000 : 30 },
    );
  });

  it("cuts frames the same, however the bytes come", () => {
    const frame = fc.oneof(
      fc.tuple(fc.nat(), fc.uint8Array({ minLength: 1, maxLength: 100 })).map(([id, bytes]) => ({
        bytes: Buffer.concat([muxFrame(id, muxTypes.data, bytes.length), bytes]),
        says: [...bytes].map((byte) => `${id} ${byte}`),
      })),
      fc
        .tuple(fc.nat(), fc.constantFrom(muxTypes.reset, muxTypes.credit, muxTypes.ready), fc.nat())
        .map(([id, type, value]) => ({ bytes: number(id, type, value), says: [`${id} ${type} ${value}`] })),
      fc.tuple(fc.nat(), fc.constantFrom(muxTypes.eof, muxTypes.opened)).map(([id, type]) => ({
        bytes: muxFrame(id, type),
        says: [`${id} ${type} 0`],
      })),
    );
    fc.assert(
      fc.property(
        fc.array(frame, { maxLength: 12 }),
        fc.array(fc.integer({ min: 1, max: 40 })),
        (frames, cuts) => {
          const heard: string[] = [];
          const decoder = createMuxDecoder({
            data: (id, piece) => heard.push(...[...piece].map((byte) => `${id} ${byte}`)),
            control: (id, type, value) => heard.push(`${id} ${type} ${value}`),
          });
          let left = Buffer.concat(frames.map(({ bytes }) => bytes));
          for (let i = 0; left.length > 0; i++) {
            const n = cuts.length > 0 ? (cuts[i % cuts.length] as number) : left.length;
            decoder.push(left.subarray(0, n));
            left = left.subarray(n);
          }
          expect(heard).toEqual(frames.flatMap(({ says }) => says));
        },
      ),
    );
  });

  it("fails all of its streams for any bytes that are no protocol, and throws nothing", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 8 }), async (chunks) => {
        const ends = pair();
        const connector = connectorOf(ends.carrier);
        ends.toHost.write(ready);
        const opening = connector.connect().catch((error: unknown) => error as Error);
        await new Promise((resolve) => setImmediate(resolve));
        ends.toHost.write(muxFrame(1, muxTypes.opened));
        const stream = await opening;
        if (stream instanceof Error) throw stream;
        const failed = new Promise((resolve) => stream.on("close", resolve));
        let error: unknown;
        stream.on("error", (cause: unknown) => {
          error = cause;
        });
        stream.resume();
        for (const chunk of chunks) ends.toHost.write(chunk);
        // At the latest with the end of the carrier.
        ends.toHost.end();
        stream.end();
        await failed;
        if (error) expect(String(error)).toMatch(/guest/);
        connector.close();
      }),
      { numRuns: Number(process.env.WARREN_PROPERTY_SECONDS) > 0 ? 2000 : 200 },
    );
  });

  it.each<[string, Buffer]>([
    ["another version", number(0, muxTypes.ready, 2)],
    ["data before it is ready", Buffer.concat([muxFrame(1, muxTypes.data, 1), Buffer.from("x")])],
    ["a stream that nobody opened", Buffer.concat([ready, muxFrame(2, muxTypes.opened)])],
    [
      "a stream opened twice",
      Buffer.concat([ready, muxFrame(1, muxTypes.opened), muxFrame(1, muxTypes.opened)]),
    ],
    [
      "two ends",
      Buffer.concat([
        ready,
        muxFrame(1, muxTypes.opened),
        muxFrame(1, muxTypes.eof),
        muxFrame(1, muxTypes.eof),
      ]),
    ],
    [
      "data after the end",
      Buffer.concat([ready, muxFrame(1, muxTypes.eof), muxFrame(1, muxTypes.data, 1), Buffer.from("x")]),
    ],
    ["credit of nothing", Buffer.concat([ready, muxFrame(1, muxTypes.opened), muxCredit(1, 0)])],
    ["too much credit", Buffer.concat([ready, muxFrame(1, muxTypes.opened), muxCredit(1, 1)])],
    ["empty data", Buffer.concat([ready, muxFrame(1, muxTypes.data)])],
    ["data without an end", Buffer.concat([ready, muxFrame(1, muxTypes.data, 32_769)])],
    ["a bit without a meaning", Buffer.concat([ready, Buffer.from([1, 0, 0, 0, 4, 1, 0, 0])])],
  ])("takes no %s", async (_name, bytes) => {
    const ends = pair();
    const connector = connectorOf(ends.carrier);
    const opening = (async () => {
      const stream = await connector.connect();
      await new Promise((_resolve, reject) => stream.on("error", reject).resume());
    })();
    opening.catch(() => {});
    // Its OPEN is on its way.
    ends.toHost.write(bytes.subarray(0, 12));
    await new Promise((resolve) => setImmediate(resolve));
    await new Promise((resolve) => setImmediate(resolve));
    ends.toHost.write(bytes.subarray(12));
    await expect(opening).rejects.toMatchObject(guestFailed);
    expect(ends.isClosed()).toBe(true);
  });

  it("keeps no more than a window for one who does not read, and takes no more", async () => {
    const ends = pair();
    const connector = connectorOf(ends.carrier);
    ends.toHost.write(ready);
    const opening = connector.connect();
    await new Promise((resolve) => setImmediate(resolve));
    ends.toHost.write(muxFrame(1, muxTypes.opened));
    const stream = await opening;
    const failed = once(stream, "error");
    const piece = Buffer.concat([muxFrame(1, muxTypes.data, 1 << 14), Buffer.alloc(1 << 14)]);
    for (let bytes = 0; bytes < MUX_WINDOW_BYTES; bytes += 1 << 14) ends.toHost.write(piece);
    await new Promise((resolve) => setImmediate(resolve));
    expect(stream.destroyed).toBe(false);
    ends.toHost.write(piece);
    expect(await failed).toMatchObject([{ code: "guest_failed" }]);
  });

  it("gives up a mux that never says that it is ready", async () => {
    const ends = pair();
    const connector = createMuxConnector(async () => ends.carrier, { readyMs: 20 });
    await expect(connector.connect()).rejects.toMatchObject(guestFailed);
    expect(ends.isClosed()).toBe(true);
  });
});

describe("an engine's framing of output", () => {
  it("is taken off, however the bytes come", () => {
    const part = fc.tuple(fc.constantFrom(1, 2), fc.uint8Array({ maxLength: 50 }));
    fc.assert(
      fc.property(fc.array(part, { maxLength: 10 }), fc.integer({ min: 1, max: 30 }), (parts, size) => {
        const bytes = Buffer.concat(
          parts.flatMap(([stream, data]) => [
            Buffer.from([stream, 0, 0, 0, 0, 0, 0, data.length]),
            Buffer.from(data),
          ]),
        );
        const heard = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
        const decoder = createOutputDecoder((stream, piece) => heard[stream].push(piece));
        for (let at = 0; at < bytes.length; at += size) decoder.push(bytes.subarray(at, at + size));
        const all = (wanted: number) =>
          Buffer.concat(parts.filter(([stream]) => stream === wanted).map(([, data]) => data));
        expect(Buffer.concat(heard.stdout)).toEqual(all(1));
        expect(Buffer.concat(heard.stderr)).toEqual(all(2));
      }),
    );
  });

  it("refuses what is none", () => {
    for (const bytes of [
      [3, 0, 0, 0, 0, 0, 0, 1],
      [0, 0, 0, 0, 0, 0, 0, 1],
      [1, 1, 0, 0, 0, 0, 0, 1],
    ]) {
      expect(() => createOutputDecoder(() => {}).push(Buffer.from(bytes))).toThrow();
    }
  });
});
