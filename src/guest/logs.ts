import { type Connect, type Connection, type ConnectionOptions, openConnection } from "./connection.ts";
import { brokenProtocol } from "./decoder.ts";
import { encodeFrame } from "./encoder.ts";
import { errnoError, parseError } from "./errors.ts";
import { replies, requests } from "./frames.ts";
import { createQueue } from "./queue.ts";
import { readPayload } from "./reader.ts";
import type { GuestLogChunk, LogOffsets } from "./types.ts";

/** Output held for a reader who is behind; the guest then keeps what it can, and drops the oldest. */
const HIGH_WATER_BYTES = 256 << 10;
/** What a piece costs beyond its bytes. */
const PIECE_BYTES = 128;
const HEAD_BYTES = 9;

const streams: Readonly<Record<number, GuestLogChunk["stream"]>> = { 1: "stdout", 2: "stderr" };

/** The main command's output from these offsets on; ends when the command has ended and all of it has come. */
export function logs(
  connect: Connect,
  from: LogOffsets,
  limits: ConnectionOptions,
): AsyncIterable<GuestLogChunk> {
  const request = encodeFrame(requests.logs).u64(from.stdout).u64(from.stderr).finish();
  const next = { ...from };
  let connection: Connection | undefined;
  let isFollowing = false;
  let isUnwanted = false;

  const chunks = createQueue<GuestLogChunk>({
    highWater: HIGH_WATER_BYTES,
    onFull: () => connection?.pause(),
    onDrain: () => connection?.resume(),
    onReturn() {
      isUnwanted = true;
      connection?.close();
    },
  });
  async function run(): Promise<void> {
    connection = await openConnection(
      connect,
      request,
      {
        frame(type, payload) {
          if (type === replies.error) {
            throw errnoError(parseError(payload).errno, "the main command's output");
          } else if (!isFollowing && type === replies.ok) {
            isFollowing = true;
          } else if (isFollowing && type === replies.log) {
            const chunk = parseChunk(payload);
            // What was skipped is lost inside; what comes twice is a lie.
            if (chunk.offset < next[chunk.stream]) throw brokenProtocol("output that was told before");
            next[chunk.stream] = chunk.offset + chunk.data.length;
            chunks.push(chunk, chunk.data.length + PIECE_BYTES);
          } else if (isFollowing && type === replies.end) {
            chunks.end();
            connection?.close();
          } else {
            throw brokenProtocol(`frame ${type} among output`);
          }
        },
        closed: chunks.fail,
      },
      limits,
    );
    if (isUnwanted) connection.close();
  }
  run().catch(chunks.fail);
  return chunks;
}

function parseChunk(payload: Buffer): GuestLogChunk {
  const r = readPayload(payload.subarray(0, HEAD_BYTES));
  const stream = streams[r.u8()];
  const offset = r.u64();
  if (stream === undefined) throw brokenProtocol("output of an unknown stream");
  return { stream, offset, data: payload.subarray(HEAD_BYTES) };
}
