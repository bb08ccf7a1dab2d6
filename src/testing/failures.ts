import { expect } from "vitest";
import { isErrorCode, WarrenError } from "../contracts/errors.ts";

/** Passes when the call fails with a WarrenError of one of these codes, with a sentence. */
export async function expectFailure(call: Promise<unknown>, ...codes: string[]): Promise<WarrenError> {
  const outcome = await call.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  );
  if (!("error" in outcome)) {
    throw new Error(`expected a failure (${codes.join(", ")}), got ${JSON.stringify(outcome.value)}`);
  }
  const { error } = outcome;
  if (!(error instanceof WarrenError)) throw error;
  if (!codes.includes(error.code)) {
    throw new Error(`expected a failure (${codes.join(", ")}), got ${error.code}: ${error.message}`, {
      cause: error,
    });
  }
  expect(isErrorCode(error.code)).toBe(true);
  expect(error.message.length).toBeGreaterThan(5);
  return error;
}
