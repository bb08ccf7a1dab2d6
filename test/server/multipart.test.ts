import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import { boundaryOf, multipartParts } from "../../src/server/multipart.ts";

interface Field {
  name: string;
  bytes: Buffer;
}

async function* cutAt(body: Buffer, sizes: number[]): AsyncGenerator<Uint8Array> {
  let at = 0;
  for (let turn = 0; at < body.length; turn++) {
    const size = sizes[turn % sizes.length] ?? 1;
    yield body.subarray(at, at + size);
    at += size;
  }
}

function encode(fields: Field[], boundary: string): Buffer {
  return Buffer.concat([
    ...fields.flatMap(({ name, bytes }) => [
      Buffer.from(`--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n`),
      bytes,
      Buffer.from("\r\n"),
    ]),
    Buffer.from(`--${boundary}--\r\n`),
  ]);
}

async function decode(source: AsyncIterable<Uint8Array>, boundary: string): Promise<Field[]> {
  const fields: Field[] = [];
  for await (const { name, body } of multipartParts(source, boundary)) {
    const chunks: Uint8Array[] = [];
    for await (const chunk of body) chunks.push(chunk.slice());
    fields.push({ name, bytes: Buffer.concat(chunks) });
  }
  return fields;
}

// Bytes that look like delimiters come up often enough to matter.
const nearly = fc.constantFrom("\r\n", "--", "\r", "\n", "-", "b", "\r\n--", "\r\n--b", "--bb", "\r\n--bx");
const content = fc
  .array(
    fc.oneof(
      nearly.map((text) => Buffer.from(text)),
      fc.uint8Array({ maxLength: 20 }).map((b) => Buffer.from(b)),
    ),
  )
  .map((pieces) => Buffer.concat(pieces));
const boundary = "bound";
const fields = fc.array(
  fc.record({
    name: fc.stringMatching(/^[a-z]{1,8}$/),
    bytes: content.filter(
      (bytes) => !bytes.includes(`\r\n--${boundary}`) && !bytes.includes(`--${boundary}`),
    ),
  }),
  { maxLength: 6 },
);
const sizes = fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 5 });

describe("multipart forms", () => {
  it("come out as they went in, however they are cut", async () => {
    await fc.assert(
      fc.asyncProperty(fields, sizes, async (sent, pieces) => {
        const got = await decode(cutAt(encode(sent, boundary), pieces), boundary);
        expect(got).toEqual(sent);
      }),
      { numRuns: 300 },
    );
  });

  it("that end early are refused, wherever that is", async () => {
    await fc.assert(
      fc.asyncProperty(fields, fc.nat(), sizes, async (sent, cut, pieces) => {
        const whole = encode(sent, boundary);
        const closing = whole.lastIndexOf("--");
        const part = whole.subarray(0, cut % (closing + 2));
        await expect(decode(cutAt(part, pieces), boundary)).rejects.toMatchObject({
          code: "invalid_request",
        });
      }),
      { numRuns: 300 },
    );
  });

  it("made of anything give parts or a refusal, and nothing else", async () => {
    const soup = fc
      .array(
        fc.oneof(
          fc
            .constantFrom(
              `--${boundary}`,
              `\r\n--${boundary}\r\n`,
              `--${boundary}--`,
              "\r\n\r\n",
              'Content-Disposition: form-data; name="x"',
              "content-disposition:form-data;name=x;filename=y",
            )
            .map((text) => Buffer.from(text)),
          fc.uint8Array({ maxLength: 30 }).map((bytes) => Buffer.from(bytes)),
        ),
        { maxLength: 20 },
      )
      .map((pieces) => Buffer.concat(pieces));
    await fc.assert(
      fc.asyncProperty(soup, sizes, async (bytes, pieces) => {
        try {
          await decode(cutAt(bytes, pieces), boundary);
        } catch (error) {
          expect(error).toBeInstanceOf(WarrenError);
          expect((error as WarrenError).code).toBe("invalid_request");
        }
      }),
      { numRuns: 500 },
    );
  });

  it("are bounded", async () => {
    const many = encode(
      Array.from({ length: 33 }, () => ({ name: "x", bytes: Buffer.alloc(1) })),
      boundary,
    );
    await expect(decode(cutAt(many, [1000]), boundary)).rejects.toThrow("more than 32 parts");
    const long = Buffer.from(`--${boundary}\r\nX: ${"y".repeat(40_000)}`);
    await expect(decode(cutAt(long, [1000]), boundary)).rejects.toThrow("headers are too long");
  });

  it.each([
    ["multipart/form-data; boundary=abc", "abc"],
    ['multipart/form-data; charset=utf-8; boundary="a b;c"', "a b;c"],
    ["Multipart/Form-Data;boundary=abc; x=y", "abc"],
  ])("%j names its boundary", (type, expected) => {
    expect(boundaryOf(type)).toBe(expected);
  });

  it.each([
    undefined,
    "",
    "text/plain",
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "multipart/mixed; boundary=x",
  ])("%j has none", (type) => {
    expect(() => boundaryOf(type)).toThrow(WarrenError);
  });
});
