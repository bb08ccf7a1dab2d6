import { z } from "zod";
import { type SignalName, signals } from "./constants.ts";
import type { ErrorCode } from "./errors.ts";
import { CString, EnvMap, GuestPath } from "./sandbox.ts";

/** Longest `timeout` of a command, in seconds: a day. */
export const MAX_EXEC_TIMEOUT_S = 86_400;

const command = {
  cmd: z.array(CString, { error: "cmd is required" }).min(1, "cmd is required").max(65_536).meta({
    description: "Program and arguments; never joined into a shell line",
  }),
  env: EnvMap.optional(),
  workdir: GuestPath.optional(),
  user: CString.max(256).optional().meta({ description: "`name`, `uid` or `uid:gid`" }),
  timeout: z.number().nonnegative().max(MAX_EXEC_TIMEOUT_S).optional().meta({
    description: "Seconds, fractions allowed, until the whole process tree is killed; 0: none",
  }),
};

/** What `POST /sandboxes/{id}/exec` takes. */
export const ExecRequest = z
  .object({
    ...command,
    stdin: z
      .string()
      .optional()
      .meta({ description: "Text for standard input; without it, stdin is /dev/null" }),
    max_output: z
      .number()
      .int()
      .min(0)
      .max(64 * 1024 * 1024)
      .optional()
      .meta({
        description:
          "Bytes kept of each of stdout and stderr (default 8 MiB); what is beyond is dropped and flagged",
      }),
  })
  .meta({ id: "ExecRequest" });
export type ExecRequest = z.input<typeof ExecRequest>;

/** The first frame of an exec stream. */
export const ExecStreamRequest = z
  .object({
    ...command,
    stdin: z
      .boolean()
      .optional()
      .meta({ description: "Keep stdin open for binary frames; else stdin is /dev/null" }),
    tty: z.boolean().optional(),
    cols: z.number().int().min(1).max(10_000).optional(),
    rows: z.number().int().min(1).max(10_000).optional(),
    binary: z
      .boolean()
      .optional()
      .meta({ description: "Output comes in binary frames: one byte of channel, then bytes" }),
  })
  .meta({ id: "ExecStreamRequest" });
export type ExecStreamRequest = z.input<typeof ExecStreamRequest>;

/** How a command ended. */
export interface ExecExit {
  /** Exit code; 128+n when signal n ended it; 124 when its timeout did; 127 not found; 126 can't be run. */
  exit_code: number;
  /** Name of the signal that ended it, such as `SIGKILL`. */
  signal?: string;
  timed_out?: boolean;
  /** The kernel killed a process of this sandbox for memory while the command ran, and the command with it. */
  oom_killed?: boolean;
}

export const ExecResult = z
  .object({
    exit_code: z.number().int(),
    stdout: z
      .string()
      .meta({ description: "UTF-8; bytes that are not become U+FFFD (then see stdout_base64)" }),
    stderr: z.string(),
    stdout_base64: z.string().optional().meta({ description: "Present only when stdout is not valid UTF-8" }),
    stderr_base64: z.string().optional(),
    stdout_truncated: z.boolean().optional(),
    stderr_truncated: z.boolean().optional(),
    signal: z.string().optional(),
    timed_out: z.boolean().optional(),
    oom_killed: z.boolean().optional(),
    duration_ms: z.number().optional(),
  })
  .meta({ id: "ExecResult" });
export type ExecResult = z.infer<typeof ExecResult>;

export interface ExecOutput {
  stream: "stdout" | "stderr";
  data: Uint8Array;
}

/** A running command. With a TTY everything arrives as `stdout`. Disposing it kills the command's process tree. */
export interface ExecSession extends AsyncDisposable {
  /** Output in order of arrival; ends when the command has ended. Not reading it stops the command by back-pressure. */
  readonly output: AsyncIterable<ExecOutput>;
  /** Settles after the last output was delivered to the transport; rejects when the guest is lost. */
  readonly exit: Promise<ExecExit>;
  /** Sends bytes to stdin; resolves when they have left our buffers. */
  write(data: Uint8Array): Promise<void>;
  /** End of stdin. */
  end(): Promise<void>;
  resize(cols: number, rows: number): Promise<void>;
  /** Sends a signal to the command's process group. `name` is a key of `signals`. */
  signal(name: SignalName): Promise<void>;
}

/** Text frames that a client sends after the first one. stdin travels in binary frames. */
export const ExecClientFrame = z.discriminatedUnion("type", [
  z.object({ type: z.literal("eof") }),
  z.object({
    type: z.literal("resize"),
    cols: z.number().int().min(1).max(10_000),
    rows: z.number().int().min(1).max(10_000),
  }),
  z.object({
    type: z.literal("signal"),
    signal: z.enum(Object.keys(signals) as [SignalName, ...SignalName[]]),
  }),
]);
export type ExecClientFrame = z.infer<typeof ExecClientFrame>;

/**
 * Text frames from the server. den's are stdout, stderr, exit and error; `data` of exit is the code as decimal digits.
 * `started` is sent only where the subprotocol `warren.v1` was agreed on, and comes before all others.
 */
export type ExecServerFrame =
  | { type: "started" }
  | { type: "stdout" | "stderr"; data: string }
  | ({ type: "exit"; data: string } & Omit<ExecExit, "exit_code">)
  | { type: "error"; data: string; code: ErrorCode; hint?: string };
