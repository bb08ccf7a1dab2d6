import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decoder, encoder } from "../../src/runtimes/oci/wire.ts";

/** A field of a payload: how it is written, and that it is read back as it was. */
interface Field {
  write(to: ReturnType<typeof encoder>): void;
  read(from: ReturnType<typeof decoder>): void;
}

const field = fc.oneof(
  fc.integer({ min: 0, max: 0xffffffff }).map(
    (value): Field => ({
      write: (to) => to.u32(value),
      read: (from) => expect(from.u32()).toBe(value),
    }),
  ),
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map(
    (value): Field => ({
      write: (to) => to.u64(value),
      read: (from) => expect(from.u64()).toBe(value),
    }),
  ),
  fc.uint8Array({ maxLength: 300 }).map(
    (value): Field => ({
      write: (to) => to.bytes(value),
      read: (from) => expect(from.bytes()).toEqual(Buffer.from(value)),
    }),
  ),
  fc.string({ unit: "grapheme", maxLength: 100 }).map(
    (value): Field => ({
      write: (to) => to.str(value),
      read: (from) => expect(from.str()).toBe(value),
    }),
  ),
  fc.array(fc.string({ unit: "grapheme", maxLength: 20 }), { maxLength: 10 }).map(
    (values): Field => ({
      write: (to) => to.list(values),
      read: (from) => {
        expect(from.u32()).toBe(values.length);
        for (const value of values) expect(from.str()).toBe(value);
      },
    }),
  ),
);

const reads = ["u8", "u32", "u64", "bytes", "str"] as const;

describe("the launcher's codec", () => {
  it("reads back what it wrote", () => {
    fc.assert(
      fc.property(fc.array(field, { maxLength: 12 }), (fields) => {
        const out = encoder();
        for (const f of fields) f.write(out);
        const from = decoder(out.finish());
        for (const f of fields) f.read(from);
        expect(() => from.u8()).toThrow(RangeError);
      }),
    );
  });

  it("takes any bytes, and never gives more than there were", () => {
    const input = fc.uint8Array({ maxLength: 200 });
    fc.assert(
      fc.property(input, fc.array(fc.constantFrom(...reads), { maxLength: 40 }), (bytes, steps) => {
        const from = decoder(Buffer.from(bytes));
        let given = 0;
        for (const step of steps) {
          let value: number | bigint | Buffer | string;
          try {
            value = from[step]();
          } catch (error) {
            expect(error).toBeInstanceOf(RangeError);
            continue;
          }
          if (Buffer.isBuffer(value)) given += value.length;
          // Three bytes, at most, become one character where they are no text.
          else if (typeof value === "string") given += Buffer.byteLength(value) / 3;
        }
        expect(given).toBeLessThanOrEqual(bytes.length);
      }),
    );
  });

  it("refuses a length that goes past the end, however great", () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 100 }),
        fc.integer({ min: 1, max: 0xffffffff - 100 }),
        (bytes, more) => {
          const payload = encoder()
            .u32(bytes.length + more)
            .finish();
          const from = decoder(Buffer.concat([payload, bytes]));
          expect(() => from.bytes()).toThrow(RangeError);
        },
      ),
    );
  });
});
