import { describe, expect, it } from "vitest";
import { CappedOutput, createOutputBudget } from "../../src/engine/output.ts";

function collect(cap: number, chunks: (string | number[])[], upstream = false) {
  const output = new CappedOutput(cap, createOutputBudget(2 ** 20));
  for (const chunk of chunks) output.push(Buffer.from(chunk as string));
  return output.finish(upstream);
}

describe("capped output", () => {
  it("keeps all that fits, exactly at the cap too", () => {
    expect(collect(4, ["ab", "cd"])).toEqual({ text: "abcd", truncated: false });
    expect(collect(0, [])).toEqual({ text: "", truncated: false });
  });
  it("drops the rest and says so", () => {
    expect(collect(3, ["ab", "cd", "ef"])).toEqual({ text: "abc", truncated: true });
    expect(collect(0, ["a"])).toEqual({ text: "", truncated: true });
    expect(collect(9, ["a"], true)).toEqual({ text: "a", truncated: true });
  });
  it("puts characters together that were split between chunks", () => {
    const bytes = [...Buffer.from("äß€😀")];
    expect(
      collect(
        99,
        bytes.map((byte) => [byte]),
      ).text,
    ).toBe("äß€😀");
  });
  it("keeps no more than the budget of all allows, and gives it back", () => {
    const budget = createOutputBudget(10_000);
    const one = new CappedOutput(2 ** 20, budget);
    one.push(Buffer.alloc(6000, "a"));
    const two = new CappedOutput(2 ** 20, budget);
    two.push(Buffer.alloc(5000, "b"));
    two.push(Buffer.from("c"));
    expect(one.finish(false)).toMatchObject({ truncated: false, text: "a".repeat(6000) });
    expect(two.finish(false)).toEqual({ truncated: true, text: "" });
    one[Symbol.dispose]();
    two[Symbol.dispose]();
    expect(budget.take(10_000)).toBe(true);
  });
  it("keeps a stream of single bytes whole", () => {
    const bytes = Array.from({ length: 20_000 }, (_, i) => [97 + (i % 26)]);
    expect(collect(20_000, bytes).text).toBe(Buffer.from(bytes.flat()).toString());
  });
  it("gives base64 for bytes that are no text", () => {
    expect(collect(9, [[0xff, 0x00, 0x41]])).toEqual({
      text: "\uFFFD\0A",
      base64: Buffer.from([0xff, 0, 0x41]).toString("base64"),
      truncated: false,
    });
  });
  it("keeps a byte order mark", () => {
    expect(collect(9, [[0xef, 0xbb, 0xbf, 0x41]]).text).toBe("\uFEFFA");
  });
  it.each([1, 2, 3, 4])("does not turn text into binary by a cut after byte %i of a character", (cut) => {
    const result = collect(1 + cut, ["a😀b"]);
    expect(result).toEqual({ text: cut === 4 ? "a😀" : "a", truncated: true });
  });
  it("still calls cut binary data binary", () => {
    expect(collect(3, [[0xff, 0x80, 0x80, 0x80, 0x80]]).base64).toBe(
      Buffer.from([0xff, 0x80, 0x80]).toString("base64"),
    );
  });
});
