import { expect, it } from "vitest";
import { z } from "zod";
import { parseInput } from "../../src/lib/parse.ts";

const Schema = z.object({ a: z.object({ b: z.number() }), c: z.string().default("x") });

it("gives what the schema makes of it", () => {
  expect(parseInput(Schema, { a: { b: 1 } })).toEqual({ a: { b: 1 }, c: "x" });
});

it("names each field that is wrong, but not without end", () => {
  expect(() => parseInput(Schema, { a: { b: "1" }, c: 5 })).toThrow(
    expect.objectContaining({ code: "invalid_request", message: expect.stringMatching(/^a\.b: .*; c: /) }),
  );
  const many = Array.from({ length: 1000 }, () => "x");
  expect(() => parseInput(z.array(z.number()), many)).toThrow(/and 997 more$/);
  expect(() => parseInput(z.string(), 5, "invalid_path")).toThrow(
    expect.objectContaining({ code: "invalid_path" }),
  );
});
