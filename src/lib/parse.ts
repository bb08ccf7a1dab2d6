import type { z } from "zod";
import { type ErrorCode, WarrenError } from "../contracts/errors.ts";

/** How many complaints of a schema are told; the rest would only be noise. */
const MOST_ISSUES = 3;

/**
 * `value` as the schema says.
 * @throws WarrenError `invalid_request` (or `code`) that names each field and what is wrong with it.
 */
export function parseInput<S extends z.ZodType>(
  schema: S,
  value: unknown,
  code: ErrorCode = "invalid_request",
): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new WarrenError(code, describeIssues(result.error), { cause: result.error });
}

/** `field: complaint; field: complaint`, as den words it. */
export function describeIssues(error: z.ZodError): string {
  const told = error.issues
    .slice(0, MOST_ISSUES)
    .map((issue) =>
      issue.path.length === 0 ? issue.message : `${issue.path.map(String).join(".")}: ${issue.message}`,
    );
  const more = error.issues.length - told.length;
  return told.join("; ") + (more > 0 ? `; and ${more} more` : "");
}

/** Undefined for what is not JSON. */
export function jsonOrUndefined(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
