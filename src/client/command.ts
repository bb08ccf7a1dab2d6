import type { SandboxApi } from "../contracts/api.ts";
import type { SignalName } from "../contracts/constants.ts";
import type { ExecExit, ExecRequest, ExecResult, ExecSession, ExecStreamRequest } from "../contracts/exec.ts";

interface CommandOptions {
  /** Working directory; default: the sandbox's. */
  cwd?: string;
  /** Added to the sandbox's own. */
  env?: Record<string, string>;
  /** `name`, `uid` or `uid:gid`. */
  user?: string;
  /** Until the command's whole process tree is killed. */
  timeoutMs?: number;
  /** Gives up: the command is killed. */
  signal?: AbortSignal;
}

export interface ExecOptions extends CommandOptions {
  /** Text for standard input. Bytes and streams go through `stream`. */
  stdin?: string;
  /** Bytes kept of each of stdout and stderr. */
  maxOutputBytes?: number;
  /** Throw `CommandFailed` when the exit code is not 0. */
  check?: boolean;
}

export interface StreamOptions extends CommandOptions {
  /** Keep stdin open for `write`. */
  stdin?: boolean;
  /** Run in a terminal of this size; all output is then stdout. */
  tty?: boolean | { cols: number; rows: number };
}

/** A command that ended with a code other than 0 where 0 was demanded. */
export class CommandFailed extends Error {
  override readonly name = "CommandFailed";
  readonly result: CommandResult;

  constructor(result: CommandResult) {
    const { argv, exitCode, timedOut, oomKilled, stderr } = result;
    const why = timedOut
      ? "ran into its timeout"
      : oomKilled
        ? "ran out of memory"
        : `exited with ${exitCode}`;
    const last = stderr.trimEnd().split("\n").at(-1);
    super(`${argv[0]} ${why}${last ? `: ${last}` : ""}`);
    this.result = result;
  }
}

/** How a command ended, and what it said. */
export class CommandResult {
  readonly argv: readonly string[];
  readonly exitCode: number;
  /** UTF-8; what isn't became U+FFFD, and `stdoutBytes` has it as it was. */
  readonly stdout: string;
  readonly stderr: string;
  /** More was printed than is kept. */
  readonly stdoutTruncated: boolean;
  readonly stderrTruncated: boolean;
  /** Name of the signal that ended it. */
  readonly signal: string | undefined;
  readonly timedOut: boolean;
  readonly oomKilled: boolean;
  readonly durationMs: number | undefined;
  readonly #answer: ExecResult;

  constructor(argv: readonly string[], answer: ExecResult) {
    this.argv = argv;
    this.#answer = answer;
    this.exitCode = answer.exit_code;
    this.stdout = answer.stdout;
    this.stderr = answer.stderr;
    this.stdoutTruncated = answer.stdout_truncated ?? false;
    this.stderrTruncated = answer.stderr_truncated ?? false;
    this.signal = answer.signal;
    this.timedOut = answer.timed_out ?? false;
    this.oomKilled = answer.oom_killed ?? false;
    this.durationMs = answer.duration_ms;
  }

  get stdoutBytes(): Uint8Array {
    return toBytes(this.#answer.stdout, this.#answer.stdout_base64);
  }

  get stderrBytes(): Uint8Array {
    return toBytes(this.#answer.stderr, this.#answer.stderr_base64);
  }

  /** This result. @throws CommandFailed when the exit code is not 0. */
  check(): this {
    if (this.exitCode !== 0) throw new CommandFailed(this);
    return this;
  }
}

export interface CommandExit {
  exitCode: number;
  signal: string | undefined;
  timedOut: boolean;
  oomKilled: boolean;
}

export interface CommandOutput {
  stream: "stdout" | "stderr";
  data: Uint8Array;
  /** The data as text; a character that was cut comes whole with the next piece. */
  text: string;
}

/** A command that runs. Iterating gives its output once; disposing kills it. */
export class RunningCommand implements AsyncIterable<CommandOutput>, AsyncDisposable {
  /** Settles when the command has ended; output that nobody reads holds the command up before that. */
  readonly exit: Promise<CommandExit>;
  readonly #session: Promise<ExecSession>;

  constructor(api: SandboxApi, id: string, argv: readonly string[], options: StreamOptions) {
    const { signal } = options;
    this.#session = api.execStream(id, streamRequest(argv, options), signal ? { signal } : undefined);
    this.exit = this.#session.then(async (session) => toExit(await session.exit));
    // Whoever only iterates hears of a failure there.
    this.exit.catch(() => undefined);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<CommandOutput> {
    const options = { ignoreBOM: true };
    const decoders = { stdout: new TextDecoder("utf-8", options), stderr: new TextDecoder("utf-8", options) };
    for await (const { stream, data } of (await this.#session).output) {
      yield { stream, data, text: decoders[stream].decode(data, { stream: true }) };
    }
  }

  /** Sends to stdin; resolves when it has left our buffers. */
  async write(data: string | Uint8Array): Promise<void> {
    const session = await this.#session;
    await session.write(typeof data === "string" ? new TextEncoder().encode(data) : data);
  }

  /** End of stdin. */
  async end(): Promise<void> {
    await (await this.#session).end();
  }

  async resize(cols: number, rows: number): Promise<void> {
    await (await this.#session).resize(cols, rows);
  }

  async signal(name: SignalName): Promise<void> {
    await (await this.#session).signal(name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const session = await this.#session.catch(() => undefined);
    await session?.[Symbol.asyncDispose]();
  }
}

export function execRequest(argv: readonly string[], options: ExecOptions): ExecRequest {
  const { stdin, maxOutputBytes } = options;
  return {
    ...commandFields(argv, options),
    ...(stdin === undefined ? {} : { stdin }),
    ...(maxOutputBytes === undefined ? {} : { max_output: maxOutputBytes }),
  };
}

function streamRequest(argv: readonly string[], options: StreamOptions): ExecStreamRequest {
  const { stdin, tty } = options;
  return {
    ...commandFields(argv, options),
    ...(stdin === undefined ? {} : { stdin }),
    ...(tty === undefined ? {} : typeof tty === "boolean" ? { tty } : { tty: true, ...tty }),
  };
}

function commandFields(argv: readonly string[], { cwd, env, user, timeoutMs }: CommandOptions) {
  return {
    cmd: [...argv],
    ...(cwd === undefined ? {} : { workdir: cwd }),
    ...(env === undefined ? {} : { env }),
    ...(user === undefined ? {} : { user }),
    ...(timeoutMs === undefined ? {} : { timeout: timeoutMs / 1000 }),
  };
}

function toExit(exit: ExecExit): CommandExit {
  return {
    exitCode: exit.exit_code,
    signal: exit.signal,
    timedOut: exit.timed_out ?? false,
    oomKilled: exit.oom_killed ?? false,
  };
}

function toBytes(text: string, base64: string | undefined): Uint8Array {
  if (base64 === undefined) return new TextEncoder().encode(text);
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
