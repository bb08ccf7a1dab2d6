import type { Duplex } from "node:stream";
import { WarrenError } from "../contracts/errors.ts";
import { cancelled } from "../lib/signals.ts";
import { type Connect, connectInTime } from "./connection.ts";
import { brokenProtocol } from "./decoder.ts";
import { encodeFrame } from "./encoder.ts";
import { errnoError, guestGone, guestSilent, linuxErrno, parseError } from "./errors.ts";
import { acceptedKinds, HEADER_BYTES, MAX_REPLY_BYTES, replies, requests } from "./frames.ts";
import { readPayload } from "./reader.ts";
import type { AcceptedConnection, ServiceNumber } from "./types.ts";

/** How long connecting inside may take, when nothing is said. */
const DEFAULT_TIMEOUT_MS = 10_000;

/** Of a host name (RFC 1035, 2.3.4). */
const MAX_HOST_BYTES = 255;

/** A raw connection to a TCP port inside; each direction ends by itself. */
export async function dial(
  connect: Connect,
  port: number,
  options: { host?: string; timeoutMs?: number },
  limits: { answerTimeoutMs: number },
): Promise<Duplex> {
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new WarrenError("invalid_request", "a port is a whole number from 1 to 65535");
  }
  const timeoutMs = Math.min(Math.max(Math.ceil(options.timeoutMs ?? DEFAULT_TIMEOUT_MS), 1), 2 ** 31 - 1);
  const host = options.host ?? "";
  const request = encodeFrame(requests.dial).str(host).u16(port).u32(timeoutMs).finish();
  const socket = await connectInTime(connect, limits);
  socket.allowHalfOpen = true;
  try {
    socket.write(request);
    const { type, payload } = await readFrame(socket, timeoutMs + limits.answerTimeoutMs);
    if (type === replies.error) {
      throw errnoError(parseError(payload).errno, `port ${port} of ${host === "" ? "the sandbox" : host}`, {
        [linuxErrno.EINVAL]: ["invalid_request", "not an address", "give an IP address or localhost"],
      });
    }
    if (type !== replies.ok || payload.length > 0) throw brokenProtocol(`frame ${type} to one who dials`);
    return socket;
  } catch (error) {
    socket.on("error", () => {}).destroy();
    throw error;
  }
}

/** The next connection of a program inside that leads out. Waits for as long as there is none. */
export async function accept(
  connect: Connect,
  signal: AbortSignal,
  limits: { answerTimeoutMs: number },
): Promise<AcceptedConnection> {
  const request = encodeFrame(requests.accept).finish();
  const { socket, payload } = await acceptNext(connect, { request, signal, ...limits });
  const target = parseTarget(payload);
  return target ? { socket, target } : { socket };
}

/** The next connection of a program inside to a service of the host. */
export async function acceptService(
  connect: Connect,
  service: ServiceNumber,
  signal: AbortSignal,
  limits: { answerTimeoutMs: number },
): Promise<Duplex> {
  const request = encodeFrame(requests.accept).u8(service).finish();
  const { socket, payload } = await acceptNext(connect, { request, signal, ...limits });
  if (payload.length === 1 && payload[0] === acceptedKinds.service) return socket;
  socket.on("error", () => {}).destroy();
  throw brokenProtocol("another connection than one to a service");
}

async function acceptNext(
  connect: Connect,
  { request, signal, ...limits }: { request: Buffer; signal: AbortSignal; answerTimeoutMs: number },
): Promise<{ socket: Duplex; payload: Buffer }> {
  const socket = await connectInTime(connect, { ...limits, signal });
  socket.allowHalfOpen = true;
  const onAbort = () => void socket.destroy();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    socket.write(request);
    const { type, payload } = await readFrame(socket);
    if (type === replies.error) throw errnoError(parseError(payload).errno, "the sandbox's connections");
    if (type !== replies.ok) throw brokenProtocol(`frame ${type} to one who accepts`);
    return { socket, payload };
  } catch (error) {
    socket.on("error", () => {}).destroy();
    throw signal.aborted ? cancelled(signal) : error;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** What an ACCEPT is answered with. */
export function parseTarget(payload: Buffer): AcceptedConnection["target"] {
  const r = readPayload(payload);
  const kind = r.u8();
  if (kind === acceptedKinds.proxy) {
    r.end();
    return undefined;
  }
  const target = { host: r.str().toString("latin1"), port: r.u16() };
  r.end();
  if (kind !== acceptedKinds.captured || target.host.length > MAX_HOST_BYTES || target.port === 0) {
    throw brokenProtocol("an accepted connection that leads nowhere");
  }
  return target;
}

/** Takes one frame and not a byte more, without making the stream flow. */
function readFrame(socket: Duplex, timeoutMs?: number): Promise<{ type: number; payload: Buffer }> {
  return new Promise((resolve, reject) => {
    let header: Buffer | null = null;
    const timer =
      timeoutMs === undefined ? undefined : setTimeout(() => settle(guestSilent(timeoutMs)), timeoutMs);
    function settle(result: Error | { type: number; payload: Buffer }): void {
      clearTimeout(timer);
      socket.off("readable", onReadable).off("end", onEnd).off("close", onEnd).off("error", onError);
      if (result instanceof Error) reject(result);
      else resolve(result);
    }
    function onReadable(): void {
      header ??= socket.read(HEADER_BYTES);
      if (header === null) return;
      const length = header.length === HEADER_BYTES ? header.readUInt32LE(0) : MAX_REPLY_BYTES + 1;
      if (length > MAX_REPLY_BYTES) {
        settle(brokenProtocol("a frame without an end"));
        return;
      }
      const payload: Buffer | null = length === 0 ? Buffer.alloc(0) : socket.read(length);
      if (payload === null) return;
      settle({ type: header[4] as number, payload });
    }
    const onEnd = (): void => settle(guestGone());
    const onError = (cause: unknown): void => settle(guestGone(cause));
    socket.on("readable", onReadable).on("end", onEnd).on("close", onEnd).on("error", onError);
  });
}
