import { z } from "zod";

/** What may be asked of a sandbox's log. */
export const LogRequest = z
  .object({
    tail: z
      .number()
      .int()
      .min(0)
      .max(100_000)
      .optional()
      .meta({ description: "Only the last so many lines; absent: all that is kept" }),
    follow: z.boolean().optional().meta({ description: "Go on with what comes, until the sandbox ends" }),
    until: z.string().min(1).max(4096).optional().meta({
      description: "Follow until this text has come in one of the streams, across lines and pieces",
    }),
    stream: z.enum(["stdout", "stderr"]).optional(),
    timeoutS: z
      .number()
      .min(0)
      .max(2_147_483)
      .optional()
      .meta({ description: "Seconds after which following ends" }),
  })
  .meta({ id: "LogRequest" });

export interface LogOptions extends z.infer<typeof LogRequest> {
  signal?: AbortSignal;
}

/** A piece of the main command's output: bytes as they came, not lines. */
export interface LogChunk {
  stream: "stdout" | "stderr";
  data: Uint8Array;
  /** When the engine got it, RFC 3339. */
  at: string;
}

/** Why a log ended: `until` was found, there is no more (or the reader left), or the time was over. */
export type LogEnd = "marker" | "end" | "timeout";

/** May be iterated once. A failure is told by iterating and by `end`. */
export interface LogStream extends AsyncIterable<LogChunk> {
  /** Settles when iterating has come to its end. */
  readonly end: Promise<LogEnd>;
}

/** One event of the log on the wire; the last one is the end. `data_base64` instead of `data` for what is not UTF-8. */
export type LogEvent =
  | { stream: LogChunk["stream"]; at: string; data: string }
  | { stream: LogChunk["stream"]; at: string; data_base64: string }
  | { end: LogEnd };
