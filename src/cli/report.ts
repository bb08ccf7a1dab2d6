import { isatty } from "node:tty";
import { readEnvironment } from "../app/config.ts";
import { WarrenError } from "../contracts/errors.ts";
import { BrokenPipe, EXIT_BROKEN_PIPE, say } from "./output.ts";
import { painter, safe, safeLines } from "./render.ts";

export const EXIT_FAILURE = 1;
export const EXIT_USAGE = 2;

/** A command line that can't be understood. */
export class UsageError extends Error {
  readonly hint: string | undefined;
  constructor(message: string, hint?: string) {
    super(message);
    this.hint = hint;
  }
}

/** Says why a command failed and what to do about it, and returns its exit code. Every error ends here. */
export async function report(error: unknown, failureCode: number): Promise<number> {
  if (error instanceof BrokenPipe) {
    return EXIT_BROKEN_PIPE;
  }
  await explain(error);
  return error instanceof UsageError ? EXIT_USAGE : failureCode;
}

/** `error: …` and `hint:  …` on stderr. */
export async function explain(error: unknown): Promise<void> {
  const { message, hint } = describe(error);
  const environment = readEnvironment();
  const paint = painter(isatty(2) && !environment.plain);
  await say(`${paint("red", "error:")} ${safeLines(message).replaceAll("\n", "\n       ")}`);
  if (hint !== undefined) {
    await say(`${paint("yellow", "hint:")}  ${safe(hint)}`);
  }
  if (environment.debug && error instanceof Error) {
    await say(safeLines(stackOf(error)));
  }
}

function describe(error: unknown): { message: string; hint?: string | undefined } {
  if (error instanceof WarrenError || error instanceof UsageError) {
    return { message: error.message, hint: error.hint };
  }
  const system = error as NodeJS.ErrnoException;
  if (error instanceof Error && system.code !== undefined && system.path !== undefined) {
    // Node's own text is "ENOENT: no such file or directory, open 'x'".
    return { message: `${system.path}: ${/^\w+: (.*), \w+/.exec(error.message)?.[1] ?? error.message}` };
  }
  return {
    message: error instanceof Error ? error.message : String(error),
    hint: "this was not expected; WARREN_DEBUG=1 shows where it comes from",
  };
}

function stackOf(error: Error): string {
  const own = error.stack ?? error.message;
  return error.cause instanceof Error ? `${own}\ncaused by ${stackOf(error.cause)}` : own;
}
