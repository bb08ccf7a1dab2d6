import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { age, json, painter, safe, safeLines, shortIds, table } from "../../src/cli/render.ts";

/** What a terminal may act on: C0, DEL and C1 controls, and characters that turn or hide text. */
const acts = (text: string) => /[\p{Cc}\p{Cf}\u2028\u2029]/u.test(text);

describe("untrusted text", () => {
  it("shows escape sequences instead of letting them work", () => {
    expect(safe("a\u001b]0;owned\u0007b")).toBe("a\\x1b]0;owned\\x07b");
    expect(safe("\u009b2J")).toBe("\\x9b2J");
    expect(safe("evil\u202egnp.exe")).toBe("evil\\u202egnp.exe");
    expect(safe("two\nlines\r\t")).toBe("two\\nlines\\r\\t");
    expect(safe("ünï漢字 ok")).toBe("ünï漢字 ok");
    expect(safeLines("a\nb\u001b[2J")).toBe("a\nb\\x1b[2J");
  });

  it("never lets a control character through, whatever comes", () => {
    fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => !acts(safe(text))));
  });

  it("keeps JSON whole and harmless", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (name) => {
        const text = json({ name });
        return JSON.parse(text).name === name && !acts(text.replaceAll("\n", ""));
      }),
    );
  });
});

it("lines columns up and makes cells safe", () => {
  expect(
    table(
      ["ID", "NAME"],
      [
        ["abc", "x\u001b[31m"],
        ["abcdef", ""],
      ],
    ),
  ).toBe("ID       NAME\nabc      x\\x1b[31m\nabcdef");
});

it("shortens ids as far as they stay apart", () => {
  expect(shortIds(["0123456789abc", "9876543210xyz"])).toEqual(["01234567", "98765432"]);
  expect(shortIds(["aaaaaaaaaa1x", "aaaaaaaaaa2x"])).toEqual(["aaaaaaaaaa1", "aaaaaaaaaa2"]);
  expect(shortIds([])).toEqual([]);
});

it("tells ages", () => {
  expect(age("2026-01-01T00:00:00Z", Date.parse("2026-01-01T02:05:09Z"))).toBe("2h 5m");
  expect(age("nonsense", 0)).toBe("-");
});

it("colours only where colours are wanted", () => {
  expect(painter(false)("red", "x")).toBe("x");
  expect(painter(true)("red", "x")).toBe("\u001b[31mx\u001b[0m");
});
