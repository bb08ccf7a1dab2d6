import { createDeferred } from "../lib/deferred.ts";
import { type Connect, type ConnectionOptions, openConnection } from "./connection.ts";
import { brokenProtocol } from "./decoder.ts";
import { type ErrnoOverrides, errnoError, parseError } from "./errors.ts";
import { replies } from "./frames.ts";

export interface SimpleRequest extends ConnectionOptions {
  frame: Buffer;
  /** The one reply that is expected. */
  reply: number;
  /** What an error is about. */
  subject: string;
  overrides?: ErrnoOverrides;
}

/** One request, one reply: its payload. */
export async function ask(connect: Connect, request: SimpleRequest): Promise<Buffer> {
  const reply = createDeferred<Buffer>();
  const connection = await openConnection(
    connect,
    request.frame,
    {
      frame(type, payload) {
        if (type === replies.error) {
          throw errnoError(parseError(payload).errno, request.subject, request.overrides);
        }
        if (type !== request.reply) throw brokenProtocol(`frame ${type} as an answer`);
        reply.resolve(payload);
        connection.close();
      },
      closed: reply.reject,
    },
    request,
  );
  return reply.promise;
}
