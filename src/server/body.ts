import type { IncomingMessage } from "node:http";
import { setImmediate } from "node:timers/promises";
import type { z } from "zod";
import { WarrenError } from "../contracts/errors.ts";
import { describeIssues } from "../lib/parse.ts";

/** How long a client may leave us waiting for the next byte of a body that it has announced. */
const BODY_IDLE_MS = 60_000;

/** How long all of a JSON body may take: it is small, so a slow one is an attack or a dead link. */
const JSON_BODY_MS = 30_000;

/**
 * The bytes of a request, at most `maxBytes` of them. Ending early leaves the connection alive, so that the answer can
 * still be sent.
 * @throws WarrenError `too_large`; `cancelled` when the client goes away or stops sending.
 */
export async function* bodyBytes(incoming: IncomingMessage, maxBytes: number): AsyncGenerator<Buffer> {
  refuseAnnounced(incoming, maxBytes);
  const chunks: AsyncIterator<Buffer> = incoming.iterator({ destroyOnReturn: false });
  let total = 0;
  try {
    while (true) {
      const next = await beforeDeadline(chunks.next(), BODY_IDLE_MS);
      if (next.done) {
        // Over HTTP/2 a body that breaks off may end like a whole one, and the reset comes right behind.
        if (incoming.httpVersionMajor === 2) await setImmediate();
        if (incoming.aborted) throw new WarrenError("cancelled", "the client went away");
        return;
      }
      total += next.value.length;
      if (total > maxBytes) throw tooLarge(maxBytes);
      yield next.value;
    }
  } finally {
    // Not awaited: it would wait for a read that may never settle.
    chunks.return?.().catch(() => undefined);
  }
}

/** A JSON body as the schema says; `orNothing`: no body is an empty object. Sentences for what den refuses too are den's. */
export async function readJson<S extends z.ZodType>(
  incoming: IncomingMessage,
  schema: S,
  maxBytes: number,
  { orNothing = false }: { orNothing?: boolean } = {},
): Promise<z.output<S>> {
  const text = await readText(incoming, maxBytes);
  return parseJson(schema, orNothing && text === "" ? "{}" : text, "invalid request body");
}

/** `text` parsed as JSON and by the schema. `malformed` is the sentence for what isn't a JSON object at all. */
export function parseJson<S extends z.ZodType>(schema: S, text: string, malformed: string): z.output<S> {
  let value: unknown;
  try {
    value = JSON.parse(text, withoutNulls);
  } catch (cause) {
    if (cause instanceof WarrenError) throw cause;
    throw new WarrenError("invalid_request", malformed, { cause, hint: "send one JSON object, as UTF-8" });
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const { issues } = result.error;
  if (issues.some((issue) => issue.path.length === 0 && issue.code === "invalid_type")) {
    throw new WarrenError("invalid_request", malformed, { hint: "send one JSON object, as UTF-8" });
  }
  const required = issues.find((issue) => issue.message.endsWith(" is required"));
  throw new WarrenError("invalid_request", required?.message ?? describeIssues(result.error));
}

/** den's decoder takes null for an absent field, and its clients send it. `__proto__` would get lost in objects made from it. */
function withoutNulls(this: unknown, key: string, value: unknown): unknown {
  if (key === "__proto__") throw new WarrenError("invalid_request", "__proto__ is not a usable name");
  return value === null && !Array.isArray(this) ? undefined : value;
}

async function readText(incoming: IncomingMessage, maxBytes: number): Promise<string> {
  refuseAnnounced(incoming, maxBytes);
  const chunks = await beforeDeadline(gather(incoming, maxBytes), JSON_BODY_MS);
  // Over HTTP/2 a body that breaks off may end like a whole one, and the reset comes right behind.
  if (incoming.httpVersionMajor === 2) await setImmediate();
  if (incoming.aborted) throw new WarrenError("cancelled", "the client went away");
  const body = chunks.length === 1 && chunks[0] ? chunks[0] : Buffer.concat(chunks);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(body);
  } catch (cause) {
    throw new WarrenError("invalid_request", "invalid request body", {
      cause,
      hint: "send one JSON object, as UTF-8",
    });
  }
}

/** All of a small body. By events: an iterator costs a good part of what a whole short request does. */
function gather(incoming: IncomingMessage, maxBytes: number): Promise<Buffer[]> {
  return new Promise((resolve, reject) => {
    if (incoming.destroyed) return reject(new WarrenError("cancelled", "the client went away"));
    const chunks: Buffer[] = [];
    let total = 0;
    const stop = () => {
      incoming.off("data", onData).off("end", onEnd).off("error", fail).off("close", fail);
      incoming.pause();
    };
    const fail = (error?: unknown) => {
      stop();
      reject(error ?? new WarrenError("cancelled", "the client went away"));
    };
    const onData = (chunk: Buffer) => {
      total += chunk.length;
      if (total > maxBytes) fail(tooLarge(maxBytes));
      else chunks.push(chunk);
    };
    const onEnd = () => {
      stop();
      resolve(chunks);
    };
    incoming.on("data", onData).on("end", onEnd).on("error", fail).on("close", fail);
  });
}

function refuseAnnounced(incoming: IncomingMessage, maxBytes: number): void {
  if (Number(incoming.headers["content-length"] ?? 0) > maxBytes) throw tooLarge(maxBytes);
}

function tooLarge(maxBytes: number): WarrenError {
  return new WarrenError("too_large", `the body is larger than ${maxBytes} bytes`);
}

async function beforeDeadline<T>(work: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new WarrenError("cancelled", "the client stopped sending")), ms);
  });
  try {
    return await Promise.race([work, late]);
  } catch (error) {
    if (error instanceof WarrenError) throw error;
    throw new WarrenError("cancelled", "the client went away", { cause: error });
  } finally {
    clearTimeout(timer);
  }
}
