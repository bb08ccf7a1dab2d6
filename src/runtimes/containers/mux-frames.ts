import { brokenProtocol } from "../../guest/decoder.ts";

/** Numbers of the mux protocol; docs/wire/mux.md is the reference. */
export const MUX_PROTOCOL = 1;
export const MUX_HEADER_BYTES = 8;
/** Largest payload of a DATA frame, either way. */
export const MUX_DATA_BYTES = 32 << 10;
/** What may be on its way to a reader who takes nothing, of each stream in each direction. */
export const MUX_WINDOW_BYTES = 256 << 10;
/** A reader grants again what it took, in steps of this. */
export const MUX_GRANT_BYTES = MUX_WINDOW_BYTES / 4;
export const MUX_MAX_STREAMS = 2048;

export const muxTypes = { ready: 1, open: 2, data: 3, eof: 4, reset: 5, credit: 6, opened: 7 } as const;

/** Of those that the guest sends. DATA: at most `MUX_DATA_BYTES`, and not empty. */
const payloadBytes: Readonly<Record<number, number>> = {
  [muxTypes.ready]: 4,
  [muxTypes.eof]: 0,
  [muxTypes.reset]: 4,
  [muxTypes.credit]: 4,
  [muxTypes.opened]: 0,
};

/** A frame without a payload, or the head of a DATA frame with `dataBytes`. */
export function muxFrame(id: number, type: number, dataBytes = 0): Buffer {
  const frame = Buffer.alloc(MUX_HEADER_BYTES);
  frame.writeUInt32LE(id, 0);
  frame[4] = type;
  frame.writeUInt16LE(dataBytes, 6);
  return frame;
}

export function muxCredit(id: number, bytes: number): Buffer {
  const number = Buffer.alloc(4);
  number.writeUInt32LE(bytes);
  return Buffer.concat([muxFrame(id, muxTypes.credit, number.length), number]);
}

export interface MuxFrameSink {
  /** A piece of a DATA frame, as it arrives: a slice of the chunk that brought it. */
  data(id: number, piece: Buffer): void;
  /** Any other frame. `value` is 0 for one without a number. */
  control(id: number, type: number, value: number): void;
}

/** Cuts what the guest's mux sends into frames. `push` throws `guest_failed` for what is none. Holds one frame's head at most. */
export function createMuxDecoder(sink: MuxFrameSink): { push(chunk: Buffer): void } {
  /** A header, and the number of a control frame. */
  const head = Buffer.alloc(MUX_HEADER_BYTES + 4);
  let have = 0;
  let want = MUX_HEADER_BYTES;
  let dataId = 0;
  let dataLeft = 0;

  function takeHead(): void {
    const id = head.readUInt32LE(0);
    const type = head[4] as number;
    const length = head.readUInt16LE(6);
    if (have === MUX_HEADER_BYTES) {
      if (head[5] !== 0) throw brokenProtocol("a mux frame with a bit that has no meaning");
      if (type === muxTypes.data) {
        if (length === 0 || length > MUX_DATA_BYTES) throw brokenProtocol(`a mux frame of ${length} bytes`);
        dataId = id;
        dataLeft = length;
        have = 0;
        return;
      }
      if (payloadBytes[type] !== length) throw brokenProtocol(`a mux frame of type ${type}, ${length} bytes`);
      want = MUX_HEADER_BYTES + length;
      if (have < want) return;
    }
    const value = want > MUX_HEADER_BYTES ? head.readUInt32LE(MUX_HEADER_BYTES) : 0;
    have = 0;
    want = MUX_HEADER_BYTES;
    sink.control(id, type, value);
  }

  return {
    push(chunk) {
      let at = 0;
      while (at < chunk.length) {
        if (dataLeft > 0) {
          const end = Math.min(chunk.length, at + dataLeft);
          dataLeft -= end - at;
          const piece = chunk.subarray(at, end);
          at = end;
          sink.data(dataId, piece);
        } else {
          const n = Math.min(want - have, chunk.length - at);
          chunk.copy(head, have, at, at + n);
          have += n;
          at += n;
          if (have === want) takeHead();
        }
      }
    },
  };
}
