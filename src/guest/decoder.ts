import { WarrenError } from "../contracts/errors.ts";
import { HEADER_BYTES, isStreamed, MAX_DATA_BYTES, MAX_REPLY_BYTES, replies } from "./frames.ts";

export type OnFrame = (type: number, payload: Buffer) => void;

/** What a guest may send. */
const known: ReadonlySet<number> = new Set(Object.values(replies));

/** The guest broke the protocol. */
export function brokenProtocol(what: string): WarrenError {
  return new WarrenError("guest_failed", `the sandbox's guest broke the protocol: ${what}`, {
    hint: "stop and start the sandbox",
  });
}

export interface FrameDecoder {
  /** Calls back for each frame that is complete, and for each piece of a streamed one. Throws `guest_failed`. */
  push(chunk: Buffer): void;
  /** True between two frames. */
  readonly isAtBoundary: boolean;
}

/**
 * Cuts the guest's bytes into frames. Holds at most one reply of 64 KiB: a length is checked before anything is kept, and
 * streamed payloads are slices of the chunk that brought them.
 */
export function createDecoder(onFrame: OnFrame): FrameDecoder {
  const header = Buffer.alloc(HEADER_BYTES);
  let headerHave = 0;
  let type = 0;
  let left = 0;
  let parts: Buffer[] = [];

  function begin(length: number, newType: number): void {
    if (!known.has(newType)) throw brokenProtocol(`a frame of unknown type ${newType}`);
    if (length > (isStreamed(newType) ? MAX_DATA_BYTES : MAX_REPLY_BYTES)) {
      throw brokenProtocol(`a frame of ${length} bytes`);
    }
    // It would cost us time and bring nothing, as often as the guest likes.
    if (length === 0 && isStreamed(newType)) throw brokenProtocol("output or data without a byte");
    type = newType;
    left = length;
    if (left === 0) onFrame(type, Buffer.alloc(0));
  }

  function take(piece: Buffer): void {
    left -= piece.length;
    if (isStreamed(type)) {
      onFrame(type, piece);
    } else if (left === 0) {
      const payload = parts.length === 0 ? piece : Buffer.concat([...parts, piece]);
      parts = [];
      onFrame(type, payload);
    } else {
      // A copy: the guest decides how small the pieces are, and each would hold on to the chunk it came in.
      parts.push(Buffer.from(piece));
      if (parts.length === 64) parts = [Buffer.concat(parts)];
    }
  }

  return {
    get isAtBoundary() {
      return headerHave === 0 && left === 0;
    },
    push(chunk) {
      let at = 0;
      while (at < chunk.length) {
        if (left > 0) {
          const end = Math.min(chunk.length, at + left);
          take(chunk.subarray(at, end));
          at = end;
        } else if (headerHave === 0 && chunk.length - at >= HEADER_BYTES) {
          begin(chunk.readUInt32LE(at), chunk[at + 4] as number);
          at += HEADER_BYTES;
        } else {
          const n = Math.min(HEADER_BYTES - headerHave, chunk.length - at);
          chunk.copy(header, headerHave, at, at + n);
          headerHave += n;
          at += n;
          if (headerHave === HEADER_BYTES) {
            headerHave = 0;
            begin(header.readUInt32LE(0), header[4] as number);
          }
        }
      }
    },
  };
}
