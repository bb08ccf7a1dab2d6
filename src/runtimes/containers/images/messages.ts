import { z } from "zod";
import { WarrenError } from "../../../contracts/errors.ts";
import { readAnswer } from "../answers.ts";

/** Of one message. A build step's whole command line is in one, and a chunk of its output. */
const MAX_MESSAGE_BYTES = 1024 * 1024;

/** What is used of one message of a pull, a build or an import; everything else is left alone. */
const Message = z.object({
  /** Output as it comes, with line ends anywhere. */
  stream: z.string().optional(),
  status: z.string().optional(),
  /** What the status is of: a layer's short digest, or a tag. */
  id: z.string().optional(),
  progressDetail: z.object({ current: z.number().optional(), total: z.number().optional() }).nullish(),
  error: z.string().optional(),
  errorDetail: z.object({ message: z.string().optional() }).nullish(),
  aux: z.object({ ID: z.string().optional() }).nullish(),
});
export type Message = z.infer<typeof Message>;

/**
 * The messages of an engine's answer, each a line of JSON.
 * @throws WarrenError `runtime_failed` for what is none
 */
export async function* readMessages(answer: AsyncIterable<Uint8Array>): AsyncGenerator<Message> {
  for await (const line of linesOf(answer)) {
    if (line.trim() !== "") yield readAnswer(Message, parse(line));
  }
}

async function* linesOf(answer: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  let pieces: Buffer[] = [];
  let size = 0;
  const keep = (piece: Buffer) => {
    size += piece.length;
    if (size > MAX_MESSAGE_BYTES) {
      throw new WarrenError("runtime_failed", "a message of the container engine has no end");
    }
    if (piece.length > 0) pieces.push(piece);
  };
  // Bytes that are no UTF-8 become U+FFFD.
  const line = () => {
    const text = Buffer.concat(pieces).toString("utf8");
    pieces = [];
    size = 0;
    return text;
  };
  for await (const chunk of answer) {
    let rest = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      keep(rest.subarray(0, end));
      yield line();
      rest = rest.subarray(end + 1);
    }
    keep(rest);
  }
  yield line();
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch (cause) {
    throw new WarrenError("runtime_failed", "a message of the container engine is not JSON", { cause });
  }
}
