import type { Duplex, Writable } from "node:stream";
import { WarrenError } from "../../contracts/errors.ts";
import { brokenProtocol } from "../../guest/decoder.ts";
import { guestGone, guestSilent } from "../../guest/errors.ts";
import { createDeferred } from "../../lib/deferred.ts";
import {
  createMuxDecoder,
  MUX_MAX_STREAMS,
  MUX_PROTOCOL,
  muxCredit,
  muxFrame,
  muxTypes,
} from "./mux-frames.ts";
import { MuxStream, type StreamHost } from "./mux-stream.ts";

/** What a guest's mux is spoken to by. */
export interface Carrier {
  readonly sink: Writable;
  /** Calls back with what the mux says, and once with its end; called once. */
  listen(onBytes: (bytes: Buffer) => void, onEnd: (error?: Error) => void): void;
  destroy(): void;
}

interface Mux {
  /** Throws `guest_failed` when the guest does not take it, and when there are as many streams as can be. */
  open(): Promise<MuxStream>;
  /** Resolves once the other side has said that it is there. */
  readonly ready: Promise<void>;
  /** Nothing can be opened any more. */
  readonly isUsedUp: boolean;
  /** Ends the carrier, and with it all streams. */
  close(error: WarrenError): void;
}

/** A stream's id is used once for each carrier; with the last of them a carrier is used up. */
const MAX_ID = 2 ** 32 - 1;
/** With so much on its way, streams take turns. More delays those with little to send, less slows those with much. */
const MAX_QUEUED_BYTES = 128 << 10;

export interface MuxOptions {
  /** Milliseconds after which a carrier without streams is closed. Default: a minute. */
  idleMs?: number;
  /** Milliseconds that the other side may take to say that it is there. Default: 10 s. */
  readyMs?: number;
}

/** Many connections over one carrier. `onLost` is called once, when nothing can be opened any more. */
function createMux(
  carrier: Carrier,
  { idleMs = 60_000, readyMs = 10_000 }: MuxOptions,
  onLost: () => void,
): Mux {
  const streams = new Map<number, MuxStream>();
  const readyToSend = new Set<MuxStream>();
  const ready = createDeferred<void>();
  let lastId = 0;
  let isReady = false;
  let isCongested = false;
  let isSending = false;
  let idle: NodeJS.Timeout | undefined;
  let lost: WarrenError | undefined;

  const write = (...parts: Buffer[]): void => {
    if (lost) return;
    carrier.sink.cork();
    for (const part of parts) carrier.sink.write(part);
    carrier.sink.uncork();
    isCongested = carrier.sink.writableNeedDrain && carrier.sink.writableLength >= MAX_QUEUED_BYTES;
  };

  /** One frame of each in turn, so that what one has much of holds nobody up. */
  const sendAll = (): void => {
    if (isSending) return;
    isSending = true;
    while (!isCongested && !lost) {
      const [stream] = readyToSend;
      if (!stream) break;
      readyToSend.delete(stream);
      if (!stream.canSend) continue;
      write(...stream.takeFrame());
      if (stream.canSend) readyToSend.add(stream);
      stream.sent();
    }
    isSending = false;
  };

  const guardIdle = (): void => {
    clearTimeout(idle);
    if (streams.size > 0 || lost) return;
    idle = setTimeout(() => lose(closed()), idleMs);
    idle.unref();
  };

  const host: StreamHost = {
    isReady(stream) {
      readyToSend.add(stream);
      sendAll();
    },
    grant: (stream, bytes) => {
      if (streams.has(stream.id)) write(muxCredit(stream.id, bytes));
    },
    closed(stream) {
      readyToSend.delete(stream);
      if (!streams.delete(stream.id)) return;
      if (!stream.hasEnded) write(muxFrame(stream.id, muxTypes.reset));
      guardIdle();
    },
  };

  const lose = (error: WarrenError): void => {
    if (lost) return;
    lost = error;
    clearTimeout(idle);
    clearTimeout(late);
    carrier.destroy();
    ready.reject(error);
    for (const stream of streams.values()) stream.destroy(error);
    onLost();
  };

  const late = setTimeout(() => lose(guestSilent(readyMs)), readyMs);

  const streamOf = (id: number): MuxStream | undefined => {
    if (id === 0 || id > lastId) throw brokenProtocol(`a frame of mux stream ${id}, which there never was`);
    return streams.get(id);
  };
  const decoder = createMuxDecoder({
    data: (id, piece) => streamOf(id)?.takeData(piece),
    control(id, type, value) {
      if (!isReady || type === muxTypes.ready) {
        if (isReady || type !== muxTypes.ready || id !== 0) throw brokenProtocol("a mux that is not ready");
        if (value !== MUX_PROTOCOL) throw brokenProtocol(`version ${value} of the mux`);
        isReady = true;
        clearTimeout(late);
        guardIdle();
        ready.resolve();
        return;
      }
      const stream = streamOf(id);
      if (type === muxTypes.opened) stream?.takeOpened();
      else if (type === muxTypes.eof) stream?.takeEnd();
      else if (type === muxTypes.credit) stream?.takeCredit(value);
      else if (stream) {
        // The guest has forgotten it already.
        streams.delete(id);
        guardIdle();
        stream.destroy(new Error(`the guest's mux reset the connection: error number ${value}`));
      }
    },
  });
  carrier.sink.on("drain", () => {
    isCongested = false;
    sendAll();
  });
  carrier.listen(
    (bytes) => {
      if (lost) return;
      try {
        decoder.push(bytes);
      } catch (error) {
        lose(error instanceof WarrenError ? error : brokenProtocol(String(error)));
      }
    },
    (error) => lose(carrierLost(error)),
  );

  return {
    ready: ready.promise,
    get isUsedUp() {
      return lost !== undefined || lastId === MAX_ID;
    },
    async open() {
      if (lost) throw lost;
      if (streams.size >= MUX_MAX_STREAMS) {
        throw new WarrenError("guest_failed", `the sandbox's guest has ${streams.size} connections already`, {
          hint: "end some of the commands and transfers that run in it",
        });
      }
      const stream = new MuxStream(++lastId, host);
      streams.set(stream.id, stream);
      clearTimeout(idle);
      // Until it is its caller's.
      const ignore = () => {};
      stream.on("error", ignore);
      write(muxFrame(stream.id, muxTypes.open));
      try {
        await stream.opened;
      } catch (error) {
        throw error instanceof WarrenError ? error : guestGone(error);
      }
      stream.off("error", ignore);
      return stream;
    },
    close: lose,
  };
}

/** Connections to one sandbox's guest. */
export interface MuxConnector {
  /** Throws `guest_failed`, or what opening a carrier throws. */
  connect(): Promise<Duplex>;
  /** Ends all connections. */
  close(): void;
}

/** Opens a carrier when there is none, and a new one when the last was lost or was closed because nobody used it. */
export function createMuxConnector(
  openCarrier: () => Promise<Carrier>,
  options: MuxOptions = {},
): MuxConnector {
  let current: Promise<Mux> | undefined;
  let isClosed = false;

  const ensure = (): Promise<Mux> => {
    if (current) return current;
    const forget = () => {
      if (current === opening) current = undefined;
    };
    const open = async (): Promise<Mux> => {
      const carrier = await openCarrier();
      if (isClosed) {
        carrier.destroy();
        throw closed();
      }
      const mux = createMux(carrier, options, forget);
      await mux.ready;
      return mux;
    };
    const opening = open();
    current = opening;
    opening.catch(forget);
    return opening;
  };

  return {
    async connect() {
      if (isClosed) throw closed();
      const earlier = current;
      const flight = ensure();
      const mux = await flight;
      try {
        if (!mux.isUsedUp) return await mux.open();
      } catch (error) {
        // An earlier carrier may have been lost without our having heard of it.
        if (flight !== earlier || !mux.isUsedUp) throw error;
      }
      if (current === flight) current = undefined;
      return await (await ensure()).open();
    },
    close() {
      isClosed = true;
      current?.then((mux) => mux.close(closed())).catch(() => {});
    },
  };
}

function closed(): WarrenError {
  return new WarrenError("guest_failed", "the connection to the sandbox's guest was closed");
}

function carrierLost(cause?: Error): WarrenError {
  if (cause instanceof WarrenError && cause.code === "guest_failed") return cause;
  return new WarrenError("guest_failed", "the connection to the sandbox's guest was lost", {
    hint: "see whether the sandbox still runs",
    ...(cause === undefined ? {} : { cause }),
  });
}
