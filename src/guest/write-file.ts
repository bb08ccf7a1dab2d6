import type { WriteFileOptions } from "../contracts/files.ts";
import { createDeferred } from "../lib/deferred.ts";
import { type Connect, type ConnectionOptions, openConnection } from "./connection.ts";
import { brokenProtocol } from "./decoder.ts";
import { dataFrames, encodeFrame } from "./encoder.ts";
import { errnoError, notAFile, parseError } from "./errors.ts";
import { inputs, replies, requests, writeFlags } from "./frames.ts";
import { checkPath, quote } from "./path.ts";
import { readPayload } from "./reader.ts";

/** 0644 for a new file, unchanged for an old one. */
const MODE_UNSET = 0xffff_ffff;

/** Resolves once the file has its new contents. A body that fails leaves the old ones, and its error is passed on. */
export async function writeFile(
  connect: Connect,
  path: string,
  body: AsyncIterable<Uint8Array> | Uint8Array,
  options: WriteFileOptions,
  limits: ConnectionOptions,
): Promise<{ bytes: number }> {
  const subject = quote(checkPath(path));
  const written = createDeferred<number>();
  let isEnded = false;
  /** Stops waiting for the body: the guest has answered already, or is gone. */
  let interrupt: (error: unknown) => void = () => {};
  let sent = 0;

  const connection = await openConnection(
    connect,
    encodeFrame(requests.write)
      .str(path)
      .u32(options.mode === undefined ? MODE_UNSET : options.mode & 0o7777)
      .u32((options.parents === false ? 0 : writeFlags.parents) | (options.append ? writeFlags.append : 0))
      .finish(),
    {
      frame(type, payload) {
        if (type === replies.error) throw errnoError(parseError(payload).errno, subject, notAFile);
        if (type !== replies.end || !isEnded) throw brokenProtocol(`frame ${type} while a file was sent`);
        const r = readPayload(payload);
        const bytes = r.u64();
        r.end();
        if (bytes !== sent) throw brokenProtocol("a length that is wrong");
        written.resolve(bytes);
        connection.close();
      },
      closed(error) {
        written.reject(error);
        interrupt(error);
      },
    },
    { ...limits, isUpload: true },
  );

  const iterator = chunksOf(body);
  const next = (): Promise<IteratorResult<Uint8Array>> =>
    new Promise((resolve, reject) => {
      interrupt = reject;
      iterator.next().then(resolve, reject);
    });
  try {
    for (let step = await next(); step.done !== true; step = await next()) {
      for (const parts of dataFrames(inputs.data, step.value)) {
        sent += parts[1].length;
        await connection.send(...parts);
      }
    }
    isEnded = true;
    connection.expectAnswer();
    await connection.send(encodeFrame(inputs.eof).finish());
  } catch (error) {
    connection.close();
    // Not waited for: a body that hangs in next() would hang here too.
    if (!isEnded) void Promise.resolve(iterator.return?.()).catch(() => {});
    // What the guest said comes before the broken connection that followed from it.
    written.reject(error);
  }
  return { bytes: await written.promise };
}

function chunksOf(body: AsyncIterable<Uint8Array> | Uint8Array): AsyncIterator<Uint8Array> {
  if (!(body instanceof Uint8Array)) return body[Symbol.asyncIterator]();
  let rest: Uint8Array[] = [body];
  return {
    next() {
      const [value] = rest;
      rest = [];
      return Promise.resolve(value === undefined ? { done: true, value } : { done: false, value });
    },
  };
}
