import { getEventListeners } from "node:events";
import { expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import { cancelled, linkSignals, throwIfAborted } from "../../src/lib/signals.ts";

it("fires with the first of its sources, with its reason", () => {
  const [one, two] = [new AbortController(), new AbortController()];
  using link = linkSignals(one.signal, undefined, two.signal);
  expect(link.signal.aborted).toBe(false);
  two.abort("why");
  one.abort("late");
  expect(link.signal.reason).toBe("why");
  using late = linkSignals(one.signal);
  expect(late.signal.aborted).toBe(true);
});

it("leaves nothing on its sources when it is disposed", () => {
  const source = new AbortController();
  for (let i = 0; i < 100; i++) linkSignals(source.signal)[Symbol.dispose]();
  expect(getEventListeners(source.signal, "abort")).toHaveLength(0);
});

it("tells of a given-up call with a code, or with the reason that is one already", () => {
  expect(() => throwIfAborted(undefined)).not.toThrow();
  expect(() => throwIfAborted(AbortSignal.abort())).toThrow(expect.objectContaining({ code: "cancelled" }));
  const closing = new WarrenError("shutting_down", "the engine is shutting down");
  expect(cancelled(AbortSignal.abort(closing))).toBe(closing);
});
