import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { cutLines } from "../../src/lib/lines.ts";

function linesOf(...chunks: (string | Uint8Array)[]): string[] {
  const lines: string[] = [];
  const cutter = cutLines((line) => lines.push(line));
  for (const chunk of chunks) cutter.push(typeof chunk === "string" ? Buffer.from(chunk) : chunk);
  cutter.end();
  return lines;
}

describe("cutLines", () => {
  it("cuts at line ends and carriage returns, wherever the chunks end", () => {
    expect(linesOf("one\ntw", "o\r\nthree\rfour")).toEqual(["one", "two", "three", "four"]);
    const euro = Buffer.from("€\n");
    expect(linesOf(euro.subarray(0, 1), euro.subarray(1))).toEqual(["€"]);
  });

  it("takes out what a terminal would act on", () => {
    expect(
      linesOf(
        "\u001b[1;31mred\u001b[0m\u0007\n\u001b]52;c;aGk=\u0007clip\n\u001b]0;title\u001b\\\ttab\u009b2J",
      ),
    ).toEqual(["red", "clip", "\ttab2J"]);
  });

  it("keeps little of a line without end", () => {
    const [line, ...more] = linesOf(...Array.from({ length: 100 }, () => "x".repeat(10_000)), "\nnext");
    expect(line).toMatch(/^x{2000}…$/);
    expect(more).toEqual(["next"]);
  });

  it("gives printable lines of bounded length of any bytes", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 8 }), (chunks) => {
        for (const line of linesOf(...chunks)) {
          expect(line).not.toMatch(/(?!\t)\p{Cc}/u);
          expect(line.length).toBeLessThanOrEqual(2001);
        }
      }),
    );
  });
});
