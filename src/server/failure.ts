import { WarrenError } from "../contracts/errors.ts";
import type { Logger } from "../lib/log.ts";

/** What a client may know of a failure. Whatever isn't a `WarrenError` is a bug: it is logged whole and told as one sentence. */
export function toWarrenError(error: unknown, log: Logger): WarrenError {
  if (error instanceof WarrenError) {
    if (error.status >= 500) log.warn({ code: error.code, err: error }, "request failed");
    return error;
  }
  log.error({ err: error }, "unexpected failure");
  return new WarrenError("internal", "something went wrong in the engine", { hint: "its log has the cause" });
}
