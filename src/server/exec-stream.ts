import type { WebSocket } from "ws";
import { z } from "zod";
import type { SandboxApi } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";
import {
  type ExecOutput,
  type ExecServerFrame,
  type ExecSession,
  type ExecStreamRequest,
  ExecStreamResume,
  ExecStreamStart,
} from "../contracts/exec.ts";
import type { Logger } from "../lib/log.ts";
import { parseJson } from "./body.ts";
import type { DetachableExecs, ExecOwner } from "./detachable-execs.ts";
import { binaryFrame, exitFrame, refuse, textFrame } from "./exec-frames.ts";
import { ExecInput, type Frame, NOT_UNDERSTOOD } from "./exec-input.ts";
import { toWarrenError } from "./failure.ts";

/** How long a client may take until it says what to run. */
const FIRST_FRAME_MS = 10_000;

/** Output that may wait in our memory for a slow client; beyond it the command is held up. */
const MAX_UNSENT_BYTES = 1024 * 1024;

export interface ExecStreamOptions {
  api: SandboxApi;
  owner: ExecOwner;
  log: Logger;
  /** Fires with the reason when the server closes. */
  closing: AbortSignal;
  detachables: DetachableExecs;
  /** A connection that breaks may do so without a word. */
  probe: boolean;
}

/**
 * Speaks the exec protocol of docs/wire/rest.md on an open WebSocket, until it is closed or belongs to a resumable
 * stream. Never rejects.
 */
export async function serveExecStream(
  socket: WebSocket,
  { api, owner, log, closing, detachables, probe }: ExecStreamOptions,
): Promise<void> {
  const gone = new AbortController();
  const leave = () => gone.abort(new WarrenError("cancelled", "the client went away"));
  socket.once("close", leave);
  socket.on("error", (error) => log.debug({ err: error }, "exec stream broke"));
  const shutDown = () => gone.abort(closing.reason);
  closing.addEventListener("abort", shutDown, { once: true });
  const input = new ExecInput(socket);
  const connection = { socket, input, probe };
  try {
    const first = parseFirst(await firstFrame(input, gone.signal));
    if ("resume" in first) {
      detachables.resume(first, owner, connection);
      return;
    }
    const { resumable, grace, ...request } = first;
    if (resumable) {
      const kill = new AbortController();
      const starting = startResumable(api, owner, request, { kill, gone: gone.signal });
      const session = await orCancelled(closing, starting);
      detachables.start(session, (reason) => kill.abort(reason), owner, connection, grace);
    } else {
      const session = await orCancelled(closing, api.execStream(owner.id, request, { signal: gone.signal }));
      await serveOnce(socket, input, session, request, gone.signal);
    }
  } catch (cause) {
    refuse(socket, toWarrenError(cause, log));
    input.drop();
  } finally {
    closing.removeEventListener("abort", shutDown);
    socket.off("close", leave);
  }
}

const AnyFrame = z.object({ resume: z.unknown().optional() });

function parseFirst({ data, isBinary }: Frame): ExecStreamStart | ExecStreamResume {
  if (isBinary) throw new WarrenError("invalid_request", NOT_UNDERSTOOD);
  const text = data.toString("utf8");
  const isResume = parseJson(AnyFrame, text, NOT_UNDERSTOOD).resume !== undefined;
  if (isResume) return parseJson(ExecStreamResume, text, NOT_UNDERSTOOD);
  const start = parseJson(ExecStreamStart, text, NOT_UNDERSTOOD);
  if (start.resumable && !start.binary) {
    throw new WarrenError("invalid_request", "resumable: needs binary as well");
  }
  return start;
}

/** A command that ends with its connection until it has started, and then only by `kill`. */
async function startResumable(
  api: SandboxApi,
  { id }: ExecOwner,
  request: ExecStreamRequest,
  { kill, gone }: { kill: AbortController; gone: AbortSignal },
): Promise<ExecSession> {
  const giveUp = () => kill.abort(gone.reason);
  gone.addEventListener("abort", giveUp, { once: true });
  try {
    const session = await api.execStream(id, request, { signal: kill.signal });
    if (!gone.aborted) return session;
    await session[Symbol.asyncDispose]();
    throw gone.reason;
  } finally {
    gone.removeEventListener("abort", giveUp);
  }
}

/** `shutting_down` is for calls that did nothing, and a command that was about to start may have done something. */
async function orCancelled(closing: AbortSignal, starting: Promise<ExecSession>): Promise<ExecSession> {
  try {
    return await starting;
  } catch (error) {
    if (!closing.aborted || error !== closing.reason) throw error;
    throw new WarrenError("cancelled", "the server was shut down while the command started");
  }
}

async function serveOnce(
  socket: WebSocket,
  input: ExecInput,
  started: ExecSession,
  { binary = false }: ExecStreamRequest,
  gone: AbortSignal,
): Promise<void> {
  await using session = started;
  // Told by the race below; nobody may be listening yet when a guest is lost early.
  session.exit.catch(() => undefined);
  // What the command says while it is being killed must not come before the error frame.
  const over = new AbortController();
  if (socket.protocol !== "") await send(socket, { type: "started" });
  const broken = input.feed(session);
  const relayed = relay(socket, session, binary, over.signal);
  try {
    await Promise.race([relayed, broken, rejection(gone)]);
  } finally {
    over.abort();
  }
  socket.close(1000);
  input.drop();
}

async function relay(
  socket: WebSocket,
  session: ExecSession,
  binary: boolean,
  over: AbortSignal,
): Promise<void> {
  const encode = binary ? binaryFrame : textFrames();
  for await (const output of session.output) {
    if (over.aborted) return;
    const frame = encode(output);
    if (frame !== undefined) await sendRaw(socket, frame);
  }
  if (!binary) {
    for (const stream of ["stdout", "stderr"] as const) {
      const rest = encode({ stream, data: new Uint8Array(0) }, true);
      if (rest !== undefined) await sendRaw(socket, rest);
    }
  }
  const exit = await session.exit;
  if (over.aborted) return;
  await sendRaw(socket, exitFrame(exit));
}

type Encode = (output: ExecOutput, last?: boolean) => string | Uint8Array | undefined;

/** Text frames whose characters are whole: bytes of a character that isn't complete yet wait for the next chunk. */
function textFrames(): Encode {
  const options = { ignoreBOM: true };
  const decoders = { stdout: new TextDecoder("utf-8", options), stderr: new TextDecoder("utf-8", options) };
  return ({ stream, data }, last = false) => {
    const text = decoders[stream].decode(data, { stream: !last });
    return text === "" ? undefined : textFrame({ type: stream, data: text });
  };
}

async function firstFrame(input: ExecInput, gone: AbortSignal): Promise<Frame> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new WarrenError("invalid_request", NOT_UNDERSTOOD)), FIRST_FRAME_MS);
  });
  try {
    return await Promise.race([input.first(), late, rejection(gone)]);
  } finally {
    clearTimeout(timer);
  }
}

function send(socket: WebSocket, frame: ExecServerFrame): Promise<void> {
  return sendRaw(socket, textFrame(frame));
}

/** Resolves at once while little is unsent, else when this frame has left our buffers. A lost socket resolves too. */
async function sendRaw(socket: WebSocket, frame: string | Uint8Array): Promise<void> {
  if (socket.bufferedAmount < MAX_UNSENT_BYTES) socket.send(frame, () => undefined);
  else await new Promise<void>((resolve) => socket.send(frame, () => resolve()));
}

function rejection(signal: AbortSignal): Promise<never> {
  const promise = new Promise<never>((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    else signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
  promise.catch(() => undefined);
  return promise;
}
