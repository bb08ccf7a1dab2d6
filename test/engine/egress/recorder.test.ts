import { describe, expect, it } from "vitest";
import type { NetworkDecision } from "../../../src/contracts/network.ts";
import { createRecorder } from "../../../src/engine/egress/recorder.ts";
import { manualClock } from "../support/manual-clock.ts";

const denied = (host: string) => ({
  host,
  port: 443,
  allowed: false,
  cause: "no_rule" as const,
  reason: `no rule allows ${host}:443`,
});

function recorder() {
  const clock = manualClock();
  const told: NetworkDecision[] = [];
  return { clock, told, ...createRecorder(clock, (decision) => told.push(decision)) };
}

describe("the recorder of decisions", () => {
  it("tells the first of equal ones at once, and the others by their number", () => {
    const { clock, told, record, decisions, counts } = recorder();
    for (let i = 0; i < 10_000; i++) record(denied("a.test"));
    record(denied("b.test"));
    expect(told).toMatchObject([{ host: "a.test" }, { host: "b.test" }]);
    expect(told[0]).not.toHaveProperty("count");
    clock.advance(5_000);
    expect(told.slice(2)).toMatchObject([{ host: "a.test", count: 9_999 }]);
    clock.advance(60_000);
    expect(told.length).toBe(3);
    record(denied("a.test"));
    expect(told.length).toBe(4);
    expect(decisions()).toMatchObject([{ host: "b.test" }, { host: "a.test", count: 10_001 }]);
    expect(counts()).toEqual({ allowed: 0, denied: 10_002 });
  });

  it("tells of a flood of different ones no more than a bounded number, and loses none of the count", () => {
    const { clock, told, record, flush, decisions } = recorder();
    for (let i = 0; i < 50_000; i++) record({ ...denied(`${i}.test`), allowed: i % 2 === 0 });
    expect(told.length).toBe(100);
    expect(decisions().length).toBe(200);
    expect(decisions().at(-1)).toMatchObject({ host: "49999.test" });
    flush();
    expect(told.slice(100)).toMatchObject([
      { host: "", allowed: true, cause: "many", count: 25_000 - 50 },
      { host: "", allowed: false, cause: "many", count: 25_000 - 50 },
    ]);
    clock.advance(60_000);
    expect(told.length).toBe(102);
  });
});
