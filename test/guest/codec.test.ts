import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import { createDecoder } from "../../src/guest/decoder.ts";
import { parseTarget } from "../../src/guest/dial.ts";
import { dataFrames, encodeFrame } from "../../src/guest/encoder.ts";
import { errnoError, parseError } from "../../src/guest/errors.ts";
import { parseExit, signalName } from "../../src/guest/exit.ts";
import { readStat, rfc3339, toFileInfo } from "../../src/guest/file-info.ts";
import {
  inputs,
  isStreamed,
  MAX_DATA_BYTES,
  MAX_REPLY_BYTES,
  replies,
  requests,
} from "../../src/guest/frames.ts";
import { readPayload } from "../../src/guest/reader.ts";
import { frame } from "./harness.ts";

const replyFrame = fc.constantFrom(...Object.values(replies)).chain((type) =>
  fc.record({
    type: fc.constant(type),
    payload: fc.uint8Array({ minLength: isStreamed(type) ? 1 : 0, maxLength: 3000 }),
  }),
);

/** Cuts bytes at the given places. */
function cut(bytes: Buffer, places: number[]): Buffer[] {
  const ends = [...places.map((p) => p % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
  let from = 0;
  return ends.map((end) => {
    const piece = bytes.subarray(from, end);
    from = end;
    return Buffer.from(piece);
  });
}

/** What a decoder makes of it, with the pieces of each run of one streamed type joined. */
function decode(chunks: Buffer[]): { type: number; bytes: Buffer }[] {
  const seen: { type: number; bytes: Buffer }[] = [];
  const decoder = createDecoder((type, payload) => {
    const last = seen.at(-1);
    if (last !== undefined && isStreamed(type) && last.type === type) {
      last.bytes = Buffer.concat([last.bytes, payload]);
    } else {
      seen.push({ type, bytes: Buffer.from(payload) });
    }
  });
  for (const chunk of chunks) decoder.push(chunk);
  expect(decoder.isAtBoundary).toBe(true);
  return seen;
}

describe("the decoder", () => {
  it("gives back what was framed, however it is cut", () => {
    fc.assert(
      fc.property(
        fc.array(replyFrame, { maxLength: 12 }),
        fc.array(fc.nat(), { maxLength: 40 }),
        (frames, places) => {
          const bytes = Buffer.concat(frames.map((f) => frame(f.type, f.payload)));
          expect(decode(cut(bytes, places))).toEqual(decode([bytes]));
          const whole = decode([bytes]);
          const plain = whole.filter((f) => !isStreamed(f.type));
          expect(plain).toEqual(
            frames
              .filter((f) => !isStreamed(f.type))
              .map((f) => ({ type: f.type, bytes: Buffer.from(f.payload) })),
          );
          for (const type of [replies.stdout, replies.stderr, replies.data]) {
            const sent = Buffer.concat(frames.filter((f) => f.type === type).map((f) => f.payload));
            expect(Buffer.concat(whole.filter((f) => f.type === type).map((f) => f.bytes))).toEqual(sent);
          }
        },
      ),
    );
  });

  it("hands streamed bytes on as they come, without copying", () => {
    const seen: Buffer[] = [];
    const decoder = createDecoder((_type, payload) => seen.push(payload));
    const chunk = Buffer.concat([frame(replies.data, Buffer.alloc(100, 1)).subarray(0, 50)]);
    decoder.push(chunk);
    expect(seen).toHaveLength(1);
    expect(seen[0]?.buffer).toBe(chunk.buffer);
    expect(decoder.isAtBoundary).toBe(false);
  });

  it("never does anything with random bytes but frames and guest_failed", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 2000 }),
        fc.array(fc.nat(), { maxLength: 10 }),
        (bytes, places) => {
          const decoder = createDecoder((type, payload) => {
            expect(payload.length).toBeLessThanOrEqual(isStreamed(type) ? MAX_DATA_BYTES : MAX_REPLY_BYTES);
          });
          try {
            for (const chunk of cut(Buffer.from(bytes), places)) decoder.push(chunk);
          } catch (error) {
            expect(error).toMatchObject({ code: "guest_failed" });
          }
        },
      ),
    );
  });

  it("takes frames of the greatest length, and none above", () => {
    expect(decode([frame(replies.data, Buffer.alloc(MAX_DATA_BYTES))])[0]?.bytes).toHaveLength(
      MAX_DATA_BYTES,
    );
    expect(decode([frame(replies.entry, Buffer.alloc(MAX_REPLY_BYTES))])[0]?.bytes).toHaveLength(
      MAX_REPLY_BYTES,
    );
    for (const [type, length] of [
      [replies.data, MAX_DATA_BYTES + 1],
      [replies.stdout, 0xffff_ffff],
      [replies.entry, MAX_REPLY_BYTES + 1],
      [0x00, 0],
      [requests.hello, 0],
      [inputs.data, 1],
    ] as const) {
      const header = Buffer.alloc(5);
      header.writeUInt32LE(length);
      header[4] = type;
      expect(() => createDecoder(() => {}).push(header)).toThrow(WarrenError);
    }
  });
});

describe("parsers of replies", () => {
  it("give a value or guest_failed for any bytes", () => {
    const parsers = [
      parseExit,
      parseError,
      (payload: Buffer) => {
        const target = parseTarget(payload);
        if (target) expect(target.port).toBeGreaterThan(0);
      },
      (payload: Buffer) => {
        const r = readPayload(payload);
        const info = toFileInfo("/x", "x", readStat(r));
        r.end();
        expect(info.mode).toMatch(/^[-pcdbls?][-r][-w][-xsS][-r][-w][-xsS][-r][-w][-xtT]$/);
        expect(info.mod_time).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$/);
      },
    ];
    const payload = fc.oneof(
      fc.uint8Array({ maxLength: 100 }),
      fc.uint8Array({ minLength: 17, maxLength: 17 }),
      // An accepted connection: a kind, a name of up to 9 bytes, and a port.
      fc
        .tuple(fc.nat(2), fc.nat(9), fc.uint8Array({ minLength: 11, maxLength: 11 }))
        .map(([kind, length, rest]) => Uint8Array.from([kind, length, 0, 0, 0, ...rest.slice(9 - length)])),
      fc.uint8Array({ minLength: 32, maxLength: 32 }).map((head) => Uint8Array.from([...head, 0, 0, 0, 0])),
    );
    fc.assert(
      fc.property(payload, fc.constantFrom(...parsers), (bytes, parse) => {
        try {
          parse(Buffer.from(bytes));
        } catch (error) {
          if (!(error instanceof WarrenError)) throw error;
          expect(error.code).toBe("guest_failed");
        }
      }),
    );
  });
});

describe("the encoder", () => {
  it("writes what the reader reads", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 2 ** 32 - 1 }),
        fc.maxSafeNat(),
        fc.string({ unit: "grapheme" }).filter((s) => !s.includes("\0")),
        (u32, u64, text) => {
          const bytes = encodeFrame(requests.stat).u32(u32).u64(u64).str(text).finish();
          expect(bytes.readUInt32LE(0)).toBe(bytes.length - 5);
          expect(bytes[4]).toBe(requests.stat);
          const r = readPayload(bytes.subarray(5));
          expect([r.u32(), r.u64(), r.str().toString()]).toEqual([u32, u64, text]);
          r.end();
        },
      ),
    );
  });

  it("cuts data into frames that add up", () => {
    for (const length of [0, 1, MAX_DATA_BYTES, MAX_DATA_BYTES + 1, 3 * MAX_DATA_BYTES]) {
      const data = Buffer.alloc(length, 7);
      const frames = [...dataFrames(inputs.data, data)];
      expect(frames).toHaveLength(Math.ceil(length / MAX_DATA_BYTES));
      expect(Buffer.concat(frames.map(([, slice]) => slice))).toEqual(data);
      for (const [header, slice] of frames) expect(header.readUInt32LE(0)).toBe(slice.length);
    }
  });
});

describe("words for numbers", () => {
  it("names signals", () => {
    expect([1, 2, 6, 9, 11, 15, 17, 29, 31, 34, 64].map(signalName)).toEqual([
      "SIGHUP",
      "SIGINT",
      "SIGABRT",
      "SIGKILL",
      "SIGSEGV",
      "SIGTERM",
      "SIGCHLD",
      "SIGIO",
      "SIGSYS",
      "SIGRTMIN+0",
      "SIGRTMIN+30",
    ]);
  });

  it("says which limit a call ran into, and what helps", () => {
    for (const errno of [23, 24]) {
      const { code, message, hint } = errnoError(errno, "/x");
      expect([code, message]).toEqual([
        "guest_failed",
        expect.stringMatching(/^\/x: .* limit of open files/),
      ]);
      expect(hint).toContain("inotify");
    }
  });

  it("writes times as RFC 3339, whatever the guest says", () => {
    expect(rfc3339(0, 0)).toBe("1970-01-01T00:00:00Z");
    expect(rfc3339(-1, 500_000_000)).toBe("1969-12-31T23:59:59.5Z");
    expect(rfc3339(1, 1)).toBe("1970-01-01T00:00:01.000000001Z");
    expect(rfc3339(1, 4_000_000_000)).toBe("1970-01-01T00:00:01Z");
    expect(rfc3339(Number.MAX_SAFE_INTEGER, 5)).toBe("9999-12-31T23:59:59Z");
    expect(rfc3339(-Number.MAX_SAFE_INTEGER, 5)).toBe("0001-01-01T00:00:00Z");
  });
});
