import { createDeferred } from "../lib/deferred.ts";
import { type Connect, openConnection } from "./connection.ts";
import { brokenProtocol } from "./decoder.ts";
import { encodeFrame } from "./encoder.ts";
import { errnoError, parseError } from "./errors.ts";
import { parseExit } from "./exit.ts";
import { replies, requests } from "./frames.ts";
import { readPayload } from "./reader.ts";
import type { GuestClient, GuestExit } from "./types.ts";

/** Waits for the main command, and so for the guest: a connection that ends is one that has gone. */
export function waitMain(
  connect: Connect,
  options: { signal?: AbortSignal | undefined; answerTimeoutMs: number },
): ReturnType<GuestClient["waitMain"]> {
  const started = createDeferred<{ hasMain: boolean }>();
  const exit = createDeferred<GuestExit>();
  let isStarted = false;

  async function run(): Promise<void> {
    const connection = await openConnection(
      connect,
      encodeFrame(requests.wait).finish(),
      {
        frame(type, payload) {
          if (type === replies.error)
            throw errnoError(parseError(payload).errno, "waiting for the main command");
          if (!isStarted && type === replies.started) {
            isStarted = true;
            const r = readPayload(payload);
            const hasMain = r.u32() !== 0;
            r.end();
            started.resolve({ hasMain });
          } else if (isStarted && type === replies.exit) {
            exit.resolve(parseExit(payload));
            connection.close();
          } else {
            throw brokenProtocol(`frame ${type} to one who waits`);
          }
        },
        closed(error) {
          started.reject(error);
          exit.reject(error);
        },
      },
      options,
    );
  }
  run().catch((error: unknown) => {
    started.reject(error);
    exit.reject(error);
  });
  return { started: started.promise, exit: exit.promise };
}
