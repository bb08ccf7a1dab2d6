import type { WebSocket } from "ws";
import type { SandboxApi } from "../contracts/api.ts";
import { execChannels } from "../contracts/constants.ts";
import { WarrenError } from "../contracts/errors.ts";
import {
  type ExecOutput,
  type ExecServerFrame,
  type ExecSession,
  ExecStreamRequest,
} from "../contracts/exec.ts";
import type { Logger } from "../lib/log.ts";
import { parseJson } from "./body.ts";
import { ExecInput, type Frame, NOT_UNDERSTOOD } from "./exec-input.ts";
import { toWarrenError } from "./failure.ts";

/** How long a client may take until it says what to run. */
const FIRST_FRAME_MS = 10_000;

/** Output that may wait in our memory for a slow client; beyond it the command is held up. */
const MAX_UNSENT_BYTES = 1024 * 1024;

export interface ExecStreamOptions {
  api: SandboxApi;
  id: string;
  log: Logger;
  /** Fires with the reason when the server closes. */
  closing: AbortSignal;
}

/** Speaks the exec protocol of docs/wire/rest.md on an open WebSocket until it is closed. Never rejects. */
export async function serveExecStream(
  socket: WebSocket,
  { api, id, log, closing }: ExecStreamOptions,
): Promise<void> {
  const gone = new AbortController();
  const leave = () => gone.abort(new WarrenError("cancelled", "the client went away"));
  socket.once("close", leave);
  socket.on("error", (error) => log.debug({ err: error }, "exec stream broke"));
  const shutDown = () => gone.abort(closing.reason);
  closing.addEventListener("abort", shutDown, { once: true });
  const input = new ExecInput(socket);
  // What the command says while it is being killed must not come before the error frame.
  const over = new AbortController();
  try {
    const request = parseFirst(await firstFrame(input, gone.signal));
    await using session = await api.execStream(id, request, { signal: gone.signal });
    // Told by the race below; nobody may be listening yet when a guest is lost early.
    session.exit.catch(() => undefined);
    if (socket.protocol !== "") await send(socket, { type: "started" });
    const broken = input.feed(session);
    const relayed = relay(socket, session, request.binary === true, over.signal);
    try {
      await Promise.race([relayed, broken, rejection(gone.signal)]);
    } finally {
      over.abort();
    }
    socket.close(1000);
  } catch (cause) {
    await refuse(socket, toWarrenError(cause, log));
  } finally {
    input.drop();
    closing.removeEventListener("abort", shutDown);
    socket.off("close", leave);
  }
}

function parseFirst({ data, isBinary }: Frame): ExecStreamRequest {
  if (isBinary) throw new WarrenError("invalid_request", NOT_UNDERSTOOD);
  return parseJson(ExecStreamRequest, data.toString("utf8"), NOT_UNDERSTOOD);
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
  const { exit_code, ...details } = await session.exit;
  if (over.aborted) return;
  await send(socket, { type: "exit", data: String(exit_code), ...details });
}

type Encode = (output: ExecOutput, last?: boolean) => string | Uint8Array | undefined;

const binaryFrame: Encode = ({ stream, data }) => {
  const frame = new Uint8Array(data.length + 1);
  frame[0] = execChannels[stream];
  frame.set(data, 1);
  return frame;
};

/** Text frames whose characters are whole: bytes of a character that isn't complete yet wait for the next chunk. */
function textFrames(): Encode {
  const options = { ignoreBOM: true };
  const decoders = { stdout: new TextDecoder("utf-8", options), stderr: new TextDecoder("utf-8", options) };
  return ({ stream, data }, last = false) => {
    const text = decoders[stream].decode(data, { stream: !last });
    return text === "" ? undefined : JSON.stringify({ type: stream, data: text } satisfies ExecServerFrame);
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

async function refuse(socket: WebSocket, error: WarrenError): Promise<void> {
  if (socket.readyState !== socket.OPEN) return;
  const { message, code, hint } = error;
  await send(socket, { type: "error", data: message, code, ...(hint === undefined ? {} : { hint }) });
  // 1001 going away, 1008 policy violation, 1011 internal error (RFC 6455, 7.4.1).
  socket.close(code === "shutting_down" ? 1001 : error.status >= 500 ? 1011 : 1008, code);
}

function send(socket: WebSocket, frame: ExecServerFrame): Promise<void> {
  return sendRaw(socket, JSON.stringify(frame));
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
