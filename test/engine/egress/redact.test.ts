import { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createFinder } from "../../../src/engine/egress/intercept/finder.ts";
import { createRedaction } from "../../../src/engine/egress/intercept/redact.ts";

const SECRET = 'sk-"abc/def+ghi&sk-"xyz';
const pass = async (secrets: string[], ...chunks: (string | Buffer)[]) => {
  const stream = createRedaction(secrets)?.stream();
  if (!stream) throw new Error("nothing to redact");
  return await text(Readable.from(chunks.map((chunk) => Buffer.from(chunk))).pipe(stream));
};

describe("redaction", () => {
  it("covers a secret however it is cut, and nothing else", async () => {
    const whole = `before sk-"ab ${SECRET} sk- ${SECRET}${SECRET} after sk-"abc`;
    const clean = whole.replaceAll(SECRET, "*".repeat(SECRET.length));
    for (let at = 0; at <= whole.length; at++) {
      const result = await pass([SECRET], whole.slice(0, at), whole.slice(at));
      // At most three first bytes go when a piece ends right after them.
      expect(result.replaceAll(/sk-\*|sk\*|s\*/g, (seen) => "*".repeat(seen.length))).toBe(clean);
      expect(result.length).toBe(whole.length);
    }
  });

  it("covers whatever pieces it comes in", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 60 }), async (sizes) => {
        const whole = Buffer.from(`xx ${SECRET} yy ${SECRET} zz`);
        const chunks: Buffer[] = [];
        let at = 0;
        for (const size of sizes) {
          chunks.push(whole.subarray(at, at + size));
          at += size;
        }
        chunks.push(whole.subarray(at));
        const result = await pass([SECRET], ...chunks);
        expect(result).not.toContain(SECRET.slice(0, 8));
        expect(result).not.toContain(SECRET.slice(4));
        expect(result).toMatch(/^xx .* yy .* zz$/);
      }),
      { numRuns: 100 },
    );
  });

  it("knows it in JSON, in URLs, and in base64 with anything around it", async () => {
    for (const written of [JSON.stringify({ a: SECRET }), encodeURIComponent(SECRET)]) {
      const result = await pass([SECRET], written);
      expect(result).toContain("*".repeat(SECRET.length));
      expect(result).not.toContain("def");
    }
    for (const before of ["", "u", "us:", "user", "me@example.com:"]) {
      for (const code of ["base64", "base64url"] as const) {
        const result = await pass([SECRET], Buffer.from(`${before}${SECRET} and more`).toString(code));
        const left = Buffer.from(result.replaceAll("*", "A"), code).toString("latin1");
        expect(left).not.toMatch(/abc|def|ghi|xyz/);
      }
    }
  });

  it("holds no message back that only ends like a secret begins", async () => {
    const stream = createRedaction([SECRET])?.stream();
    stream?.write("yes");
    expect(String(stream?.read())).toBe("yes");
    stream?.write('k-"abc');
    expect(stream?.read()).toBeNull();
    const rest = text(stream as NonNullable<typeof stream>);
    stream?.end("!");
    expect(await rest).toBe('k-"abc!');
  });

  it("covers text of headers, the longest first", () => {
    const redaction = createRedaction(["12345678", "12345678-and-more"]);
    expect(redaction?.text("a 12345678-and-more b 12345678 c")).toBe(
      `a ${"*".repeat(17)} b ${"*".repeat(8)} c`,
    );
    expect(createRedaction([])).toBeUndefined();
  });
});

describe("looking for texts", () => {
  /** Of few characters, so that they begin and end alike, lie within each other, and are everywhere. */
  const word = (min: number, max: number) =>
    fc
      .array(fc.constantFrom("a", "b", "\x01", "\xff"), { minLength: min, maxLength: max })
      .map((all) => all.join(""));
  const bytes = (text: string) => Buffer.from(text, "latin1");

  it("finds each place where one of them is, and the longest there", () => {
    fc.assert(
      fc.property(fc.array(word(2, 9), { minLength: 1, maxLength: 6 }), word(0, 80), (texts, where) => {
        const finder = createFinder(texts.map(bytes));
        const found: { at: number; length: number }[] = [];
        for (let next = finder.next(bytes(where), 0); next; next = finder.next(bytes(where), next.at + 1)) {
          found.push(next);
        }
        const expected = [...where].flatMap((_, at) => {
          const here = texts.filter((text) => where.startsWith(text, at)).map(({ length }) => length);
          return here.length > 0 ? [{ at, length: Math.max(...here) }] : [];
        });
        expect(found).toEqual(expected);
      }),
      { numRuns: 2000 },
    );
  });

  it("finds what has any other bytes around it", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.uint8Array({ maxLength: 300 }), (before, after) => {
        const whole = Buffer.concat([before, bytes(SECRET), after]);
        expect(createFinder([bytes(SECRET)]).next(whole, 0)?.at).toBe(whole.indexOf(SECRET, 0, "latin1"));
      }),
    );
  });

  it("refuses texts that are too short to look for", () => {
    expect(() => createFinder([bytes("ab"), bytes("c")])).toThrow(RangeError);
  });
});
