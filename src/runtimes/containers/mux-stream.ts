import { Duplex } from "node:stream";
import { brokenProtocol } from "../../guest/decoder.ts";
import { createDeferred } from "../../lib/deferred.ts";
import { MUX_DATA_BYTES, MUX_GRANT_BYTES, MUX_WINDOW_BYTES, muxFrame, muxTypes } from "./mux-frames.ts";

/** What a stream asks of the mux that it is a part of. */
export interface StreamHost {
  /** There is something to send: `takeFrame` is called when its turn has come. */
  isReady(stream: MuxStream): void;
  /** Bytes were taken of what came. */
  grant(stream: MuxStream, bytes: number): void;
  /** It was destroyed, or both directions have ended. */
  closed(stream: MuxStream): void;
}

/** Smaller pieces than this are put together: a guest decides how small they are, and each would cost a buffer. */
const SMALL_BYTES = 16 << 10;
const HIGH_WATER_BYTES = 64 << 10;

/**
 * One connection to the guest. Each direction ends by itself, as a socket's with `allowHalfOpen`; destroying it resets it.
 * Keeps at most a window of what came and nobody has read.
 */
export class MuxStream extends Duplex {
  readonly id: number;
  /** Resolves once the guest has taken it; rejects when it does not. */
  readonly opened: Promise<void>;
  /** Both directions have ended: there is nothing to reset. */
  hasEnded = false;
  readonly #host: StreamHost;
  readonly #opening = createDeferred<void>();
  #isOpened = false;
  readonly #arrived = createPieces();
  #isWanted = false;
  #arrivedEnd = false;
  /** Bytes that the guest may still send. */
  #granted = MUX_WINDOW_BYTES;
  /** Taken, and not yet granted again. */
  #taken = 0;
  /** The first may be sent in part. */
  #outgoing: Buffer[] = [];
  #onSent: ((error?: Error | null) => void) | undefined;
  #isEnding = false;
  #endSent = false;
  #allowance = MUX_WINDOW_BYTES;

  constructor(id: number, host: StreamHost) {
    super({
      allowHalfOpen: true,
      readableHighWaterMark: HIGH_WATER_BYTES,
      writableHighWaterMark: HIGH_WATER_BYTES,
    });
    this.id = id;
    this.#host = host;
    this.opened = this.#opening.promise;
  }

  /** The next frame that it has to send and may, while `canSend`. */
  takeFrame(): Buffer[] {
    if (this.#outgoing.length > 0) {
      const parts = this.#takeOutgoing(Math.min(MUX_DATA_BYTES, this.#allowance));
      const size = parts.reduce((bytes, part) => bytes + part.length, 0);
      this.#allowance -= size;
      return [muxFrame(this.id, muxTypes.data, size), ...parts];
    }
    this.#isEnding = false;
    this.#endSent = true;
    return [muxFrame(this.id, muxTypes.eof)];
  }

  /** True while `takeFrame` would give one. */
  get canSend(): boolean {
    return this.#outgoing.length > 0 ? this.#allowance > 0 : this.#isEnding;
  }

  /** To be called once what `takeFrame` gave is on its way. */
  sent(): void {
    if (this.#outgoing.length > 0 || this.#isEnding) return;
    const callback = this.#onSent;
    this.#onSent = undefined;
    callback?.();
  }

  /** What follows is what the guest sent. All throw `guest_failed` when it was not free to. */
  takeOpened(): void {
    if (this.#isOpened) throw brokenProtocol("a mux stream that is opened twice");
    this.#isOpened = true;
    this.#opening.resolve();
  }

  takeData(piece: Buffer): void {
    if (this.#arrivedEnd) throw brokenProtocol("data after the end of a mux stream");
    if (piece.length > this.#granted) throw brokenProtocol("more data of a mux stream than was granted");
    this.#granted -= piece.length;
    if (this.#isWanted && this.#arrived.isEmpty) this.#give(piece);
    else this.#arrived.add(piece);
    this.#hand();
  }

  takeEnd(): void {
    if (this.#arrivedEnd) throw brokenProtocol("two ends of a mux stream");
    this.#arrivedEnd = true;
    this.#hand();
    this.#noteEnd();
  }

  takeCredit(bytes: number): void {
    if (bytes === 0 || this.#allowance + bytes > MUX_WINDOW_BYTES) {
      throw brokenProtocol("credit for a mux stream that it can't have");
    }
    this.#allowance += bytes;
    if (this.canSend) this.#host.isReady(this);
  }

  override _read(): void {
    this.#isWanted = true;
    this.#hand();
  }

  override _write(chunk: Buffer, _encoding: string, callback: (error?: Error | null) => void): void {
    this._writev([{ chunk }], callback);
  }

  override _writev(chunks: { chunk: Buffer }[], callback: (error?: Error | null) => void): void {
    this.#outgoing = chunks.map(({ chunk }) => chunk).filter((chunk) => chunk.length > 0);
    if (this.#outgoing.length === 0) {
      callback();
      return;
    }
    this.#onSent = callback;
    if (this.canSend) this.#host.isReady(this);
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.#isEnding = true;
    this.#onSent = (error) => {
      callback(error);
      this.#noteEnd();
    };
    this.#host.isReady(this);
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#host.closed(this);
    this.#opening.reject(error ?? new Error("the stream was closed"));
    this.#arrived.clear();
    this.#outgoing = [];
    const onSent = this.#onSent;
    this.#onSent = undefined;
    callback(error);
    onSent?.(error ?? new Error("the stream was closed"));
  }

  #takeOutgoing(most: number): Buffer[] {
    const parts: Buffer[] = [];
    for (let left = most; left > 0 && this.#outgoing.length > 0; ) {
      const first = this.#outgoing[0] as Buffer;
      parts.push(first.subarray(0, left));
      if (first.length > left) this.#outgoing[0] = first.subarray(left);
      else this.#outgoing.shift();
      left -= Math.min(left, first.length);
    }
    return parts;
  }

  #noteEnd(): void {
    if (!this.#arrivedEnd || !this.#endSent) return;
    this.hasEnded = true;
    this.#host.closed(this);
  }

  #give(piece: Buffer): void {
    this.#taken += piece.length;
    // Pushing may call _read() before it returns.
    this.#isWanted = false;
    if (this.push(piece)) this.#isWanted = true;
  }

  /** Gives the reader what it has room for. */
  #hand(): void {
    while (this.#isWanted) {
      const piece = this.#arrived.take();
      if (!piece) break;
      this.#give(piece);
    }
    if (this.#arrivedEnd) {
      if (this.#isWanted && this.#arrived.isEmpty) {
        this.#isWanted = false;
        this.push(null);
      }
    } else if (this.#taken >= MUX_GRANT_BYTES && !this.destroyed) {
      const bytes = this.#taken;
      this.#taken = 0;
      this.#granted += bytes;
      this.#host.grant(this, bytes);
    }
  }
}

/** Bytes in the order of their arrival, in about as much memory as there are bytes. */
function createPieces() {
  let pieces: Buffer[] = [];
  let first = 0;
  /** The last piece, while there is room in it for small ones. */
  let open: { buffer: Buffer; used: number } | undefined;
  const seal = () => {
    if (open) pieces.push(open.buffer.subarray(0, open.used));
    open = undefined;
  };
  return {
    get isEmpty() {
      return first === pieces.length && !open;
    },
    add(piece: Buffer) {
      if (piece.length >= SMALL_BYTES) {
        seal();
        pieces.push(piece);
        return;
      }
      if (open && open.used + piece.length > open.buffer.length) seal();
      open ??= { buffer: Buffer.allocUnsafeSlow(SMALL_BYTES), used: 0 };
      open.used += piece.copy(open.buffer, open.used);
    },
    take(): Buffer | undefined {
      if (first === pieces.length) seal();
      const piece = pieces[first];
      if (!piece) return undefined;
      first++;
      if (first === pieces.length) {
        pieces = [];
        first = 0;
      }
      return piece;
    },
    clear() {
      pieces = [];
      first = 0;
      open = undefined;
    },
  };
}
