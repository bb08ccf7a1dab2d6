import { expect } from "vitest";
import { WarrenError } from "../../../../src/contracts/errors.ts";

/** Passes when the call fails with a WarrenError of one of these codes, in words. */
export async function expectFailure(call: Promise<unknown>, ...codes: string[]): Promise<WarrenError> {
  const outcome = await call.then(
    () => new Error("the call succeeded"),
    (error: unknown) => error,
  );
  if (!(outcome instanceof WarrenError)) throw outcome;
  expect(codes, outcome.message).toContain(outcome.code);
  expect(outcome.message).not.toBe("");
  return outcome;
}
