import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { formatBytes, formatDuration, parseDuration, parseSize } from "../../src/lib/units.ts";

describe("parseDuration", () => {
  it.each([
    ["90", 90],
    ["0.5", 0.5],
    ["250ms", 0.25],
    ["30s", 30],
    ["5m", 300],
    ["2H", 7200],
    ["1d", 86_400],
    ["1h30m", 5400],
    ["0.1s0.2s", 0.3],
    [" never ", "never"],
  ])("reads %j", (text, seconds) => {
    expect(parseDuration(text)).toBe(seconds);
  });

  it.each(["", "m", "5 m", "-5", "5y", "1e3", "5m!", "Infinity", "٣s"])("refuses %j with a hint", (text) => {
    expect(() => parseDuration(text)).toThrowError(
      expect.objectContaining({ code: "invalid_request", hint: expect.stringContaining("30s") }),
    );
  });

  it("answers any text with a number that is not negative, `never` or its own error", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[\d.]{0,6}[smhdk]{0,3}$/)), (text) => {
        try {
          const value = parseDuration(text);
          return value === "never" || (Number.isFinite(value) && value >= 0);
        } catch (error) {
          return (error as { code?: string }).code === "invalid_request";
        }
      }),
    );
  });
});

describe("parseSize", () => {
  it.each([
    ["1048576", 1_048_576],
    ["512k", 524_288],
    ["512m", 536_870_912],
    ["1.5g", 1_610_612_736],
    ["1GiB", 1_073_741_824],
    ["10b", 10],
  ])("reads %j", (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  it.each(["", "m", "-1", "1x", "9999999999t", "1 g", "0x10"])("refuses %j", (text) => {
    expect(() => parseSize(text)).toThrowError(expect.objectContaining({ code: "invalid_request" }));
  });
});

it("formats bytes and durations for people", () => {
  expect([0, 1, 1023, 1024, 1536, 150 * 1024 ** 2, 2 ** 60].map(formatBytes)).toEqual([
    "0 B",
    "1 B",
    "1023 B",
    "1 KiB",
    "1.5 KiB",
    "150 MiB",
    "1048576 TiB",
  ]);
  expect([-5, 0, 59, 60, 61, 3600, 7500, 90_000, 86_400 * 40].map(formatDuration)).toEqual([
    "0s",
    "0s",
    "59s",
    "1m",
    "1m",
    "1h",
    "2h 5m",
    "1d 1h",
    "40d",
  ]);
});
