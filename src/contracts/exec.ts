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

/** Longest `grace` of a resumable exec stream, in seconds. */
const MAX_GRACE_S = 300;

/** The first frame of an exec stream on the wire: a request, and what the connection shall be like. */
export const ExecStreamStart = ExecStreamRequest.extend({
  resumable: z
    .boolean()
    .optional()
    .meta({ description: "The command outlives a connection that is lost; needs `binary`" }),
  grace: z
    .number()
    .positive()
    .max(MAX_GRACE_S)
    .optional()
    .meta({ description: "Seconds that the command goes on without a connection; default 30" }),
}).meta({ id: "ExecStreamStart" });
export type ExecStreamStart = z.input<typeof ExecStreamStart>;

/** The first frame of a connection that takes a resumable exec stream up again. */
export const ExecStreamResume = z
  .object({
    resume: z.string().max(256).meta({ description: "The `session` that `started` told" }),
    received: z.number().int().min(0).meta({ description: "How many of the server's frames have come" }),
  })
  .meta({ id: "ExecStreamResume" });
export type ExecStreamResume = z.infer<typeof ExecStreamResume>;

/** How a command ended. */
export interface ExecExit {
  /** Exit code; 128+n when signal n ended it; 124 when its timeout did; 127 not found; 126 can't be run. */
  exit_code: number;
  /** Name of the signal that ended it, such as `SIGKILL`. */
  signal?: string;
  timed_out?: boolean;
  /** The kernel killed a process of this sandbox for memory while the command ran, and the command with it. */
  oom_killed?: boolean;
  /** How many connections of the sandbox its rules of network denied while the command ran; absent where none was. */
  denied?: number;
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
    denied: z
      .number()
      .int()
      .optional()
      .meta({ description: "Connections of the sandbox that its rules denied while the command ran" }),
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

const inputFrames = [
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
] as const;

/** Text frames that a client sends after the first one. stdin travels in binary frames. */
export const ExecClientFrame = z.discriminatedUnion("type", inputFrames);
export type ExecClientFrame = z.infer<typeof ExecClientFrame>;

/** What a client of a resumable stream sends beside: these are of the connection, and are not counted. */
export type ExecLinkFrame = { type: "ack"; frames: number } | { type: "ping" };
export const ExecResumableFrame = z.discriminatedUnion("type", [
  ...inputFrames,
  z.object({ type: z.literal("ack"), frames: z.number().int().min(0) }),
  z.object({ type: z.literal("ping") }),
]);

/** What makes a stream resumable, told with `started`. */
export interface ExecResumption {
  /** Names the command to a later connection. A secret: whoever has it beside the API key can take the stream over. */
  session: string;
  /** Seconds that the command goes on without a connection. */
  grace: number;
  /** Seconds of silence after which a client asks whether the server is still there. */
  heartbeat: number;
  /** Bytes of input, each frame counted with `EXEC_FRAME_COST` beside its own, that may wait for acknowledgement. */
  window: number;
}

/**
 * Text frames from the server. den's are stdout, stderr, exit and error; `data` of exit is the code as decimal digits.
 * `started` comes before all others, where the subprotocol `warren.v1` was agreed on or the stream is resumable.
 */
export type ExecServerFrame =
  | ({ type: "started" } & Partial<ExecResumption>)
  | { type: "stdout" | "stderr"; data: string }
  | ({ type: "exit"; data: string } & Omit<ExecExit, "exit_code">)
  | { type: "error"; data: string; code: ErrorCode; hint?: string }
  | { type: "resumed"; received: number }
  | { type: "ack"; frames: number }
  | { type: "pong" };
