import { ReadStream } from "node:tty";
import { readEnvironment } from "../app/config.ts";
import type { SandboxApi } from "../contracts/api.ts";
import { type SignalName, signals } from "../contracts/constants.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { ExecExit, ExecSession, ExecStreamRequest } from "../contracts/exec.ts";
import { BrokenPipe, EXIT_BROKEN_PIPE, writeFully } from "./output.ts";
import { explain } from "./report.ts";
import { rawMode, watchSize } from "./terminal.ts";

export interface Attach {
  interactive: boolean;
  tty: boolean;
}

/**
 * Runs a command with our own stdin, stdout, stderr and signals, and says how it ended. Without a terminal, signals
 * that we get go to the command; the second SIGINT kills it. With one, keys do, and a deadly signal ends the command.
 * Our terminal is as before on every way out.
 */
export async function runAttached(
  api: SandboxApi,
  id: string,
  request: ExecStreamRequest,
  attach: Attach,
): Promise<ExecExit> {
  const ended = new AbortController();
  let session: ExecSession | undefined;
  using size = attach.tty ? watchSize(({ cols, rows }) => resize(session, cols, rows)) : null;
  using signalled = handleSignals(attach, ended, () => session);
  const opening = api.execStream(
    id,
    { ...request, ...(attach.tty ? (size?.current() ?? {}) : {}) },
    { signal: ended.signal },
  );
  // Whoever gives up must not wait for the server; a session that opens after all is closed.
  await Promise.race([opening, signalled.deadly]).catch(() => {});
  if (signalled.code() !== undefined) {
    void opening.then((late) => late[Symbol.asyncDispose]()).catch(() => {});
    return { exit_code: signalled.code() ?? 0 };
  }
  session = await opening;
  try {
    using _raw =
      attach.tty && attach.interactive && process.stdin instanceof ReadStream
        ? await rawMode(process.stdin)
        : null;
    const running = run(session, attach.interactive);
    await Promise.race([running, signalled.deadly]).catch(() => {});
    const code = signalled.code();
    if (code !== undefined) {
      running.catch(() => {});
      return { exit_code: code };
    }
    return await running;
  } catch (error) {
    if (error instanceof BrokenPipe) {
      return { exit_code: EXIT_BROKEN_PIPE };
    }
    throw error;
  } finally {
    await closeSoon(session);
  }
}

/** A program in a terminal must know which kind of terminal draws its output. */
export function terminalType(tty: boolean): Record<string, string> {
  const { term } = readEnvironment();
  return tty ? { TERM: term ?? "xterm" } : {};
}

/** What a command that ended so has our process end with. Says why, where the code alone does not. */
export async function exitCode(exit: ExecExit, timeout: string | undefined): Promise<number> {
  if (exit.timed_out) {
    await explain(
      new WarrenError("deadline_exceeded", `the command was killed after ${timeout ?? "its timeout"}`),
    );
    return 124;
  }
  if (exit.oom_killed) {
    await explain(
      new WarrenError("no_space", "the command was killed because the sandbox had no memory left", {
        hint: "create the sandbox with more --memory",
      }),
    );
  }
  return exit.exit_code;
}

async function run(session: ExecSession, interactive: boolean): Promise<ExecExit> {
  // `exit` may reject while output is still being read; it is awaited below.
  session.exit.catch(() => {});
  if (interactive) {
    void pumpStdin(session);
  }
  for await (const { stream, data } of session.output) {
    await writeFully(stream === "stdout" ? 1 : 2, data);
  }
  return session.exit;
}

/** Our stdin to the command's. A command that no longer reads, or has ended, is no failure: `exit` tells the end. */
async function pumpStdin(session: ExecSession): Promise<void> {
  try {
    for await (const chunk of process.stdin) {
      await session.write(chunk);
    }
    await session.end();
  } catch {
    process.stdin.destroy();
  }
}

/** How long the end of a session may take that we no longer need. */
const CLOSE_MS = 1000;

async function closeSoon(session: ExecSession): Promise<void> {
  const closed = Promise.resolve(session[Symbol.asyncDispose]()).catch(() => {});
  await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, CLOSE_MS))]);
}

function resize(session: ExecSession | undefined, cols: number, rows: number): void {
  session?.resize(cols, rows).catch(() => {});
}

const forwarded = [
  "SIGINT",
  "SIGTERM",
  "SIGHUP",
  "SIGQUIT",
  "SIGUSR1",
  "SIGUSR2",
] as const satisfies SignalName[];
const deadlyToTerminal: readonly SignalName[] = ["SIGTERM", "SIGHUP", "SIGQUIT"];

interface Signalled extends Disposable {
  /** Settles when a signal means that we give up. */
  deadly: Promise<void>;
  /** The exit code to end with, once `deadly` has settled. */
  code(): number | undefined;
}

function handleSignals(
  attach: Attach,
  ended: AbortController,
  session: () => ExecSession | undefined,
): Signalled {
  let code: number | undefined;
  let interrupts = 0;
  let giveUp = () => {};
  const deadly = new Promise<void>((resolve) => {
    giveUp = resolve;
  });
  const handlers = forwarded.map((name) => {
    const handler = () => {
      interrupts += name === "SIGINT" ? 1 : 0;
      const running = session();
      const isLast = interrupts > 1 || !running || (attach.tty && deadlyToTerminal.includes(name));
      if (isLast) {
        code = 128 + signals[name];
        // While the session opens, giving up means taking the request back.
        if (!running) ended.abort();
        giveUp();
      } else {
        running.signal(name).catch(() => {});
      }
    };
    process.on(name, handler);
    return { name, handler };
  });
  return {
    deadly,
    code: () => code,
    [Symbol.dispose]() {
      for (const { name, handler } of handlers) {
        process.off(name, handler);
      }
    },
  };
}
