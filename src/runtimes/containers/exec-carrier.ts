import type { Duplex } from "node:stream";
import { z } from "zod";
import { WarrenError } from "../../contracts/errors.ts";
import { readAnswer } from "./answers.ts";
import { type ApiClient, engineFailure, engineWords } from "./api-client.ts";
import type { Carrier } from "./mux.ts";

const CreatedExec = z.object({ Id: z.string().regex(/^[0-9a-f]{12,128}$/) });
/** Bytes of a program's complaints that are kept. */
const MAX_COMPLAINT_BYTES = 4096;

/**
 * Runs a program in a container as root, and gives its stdin and stdout. Closing the carrier ends its stdin.
 * @throws WarrenError `guest_failed` when the engine refuses, such as for a container that does not run
 */
export async function openExecCarrier(
  client: ApiClient,
  containerPath: string,
  argv: readonly string[],
): Promise<Carrier> {
  try {
    const created = await client.json({
      method: "POST",
      path: `${containerPath}/exec`,
      // Not the container's own working directory, which a payload may have removed.
      body: {
        AttachStdin: true,
        AttachStdout: true,
        AttachStderr: true,
        Tty: false,
        User: "0:0",
        WorkingDir: "/",
        Cmd: argv,
      },
    });
    const { Id } = readAnswer(CreatedExec, created);
    const connection = await client.hijack({
      method: "POST",
      path: `/exec/${Id}/start`,
      body: { Detach: false, Tty: false },
    });
    return carrierOf(connection);
  } catch (error) {
    if (error instanceof WarrenError) throw error;
    const { message } = engineFailure(error, "the sandbox's guest can't be reached");
    throw new WarrenError("guest_failed", message, { cause: error });
  }
}

/** A hijacked connection: our bytes are the program's stdin, and what comes is its output in the engine's framing. */
export function carrierOf(connection: Duplex): Carrier {
  return {
    sink: connection,
    listen(onBytes, onEnd) {
      let complaint = Buffer.alloc(0);
      let isOver = false;
      const end = (cause?: Error) => {
        if (isOver) return;
        isOver = true;
        if (cause || complaint.length === 0) return onEnd(cause);
        const words = engineWords(complaint.toString("utf8"));
        onEnd(new WarrenError("guest_failed", `the sandbox's guest can't be reached: ${words}`));
      };
      const output = createOutputDecoder((stream, piece) => {
        if (stream === "stdout") onBytes(piece);
        else complaint = Buffer.concat([complaint, piece]).subarray(-MAX_COMPLAINT_BYTES);
      });
      connection.on("data", (chunk: Buffer) => {
        try {
          if (!isOver) output.push(chunk);
        } catch (error) {
          end(error as Error);
        }
      });
      connection.on("error", end);
      connection.on("end", () => end());
      connection.on("close", () => end());
    },
    destroy() {
      connection.on("error", () => {});
      connection.destroy();
    },
  };
}

const FRAME_HEADER_BYTES = 8;

/**
 * The framing of a program's output without a terminal: a byte that names the stream, three of zero, and the length in four,
 * big endian. Pieces are handed on as they come.
 */
export function createOutputDecoder(onPiece: (stream: "stdout" | "stderr", piece: Buffer) => void) {
  const header = Buffer.alloc(FRAME_HEADER_BYTES);
  let have = 0;
  let left = 0;
  return {
    /** @throws WarrenError `runtime_failed` */
    push(chunk: Buffer): void {
      let at = 0;
      while (at < chunk.length) {
        if (left > 0) {
          const piece = chunk.subarray(at, Math.min(chunk.length, at + left));
          left -= piece.length;
          at += piece.length;
          onPiece(header[0] === 2 ? "stderr" : "stdout", piece);
          continue;
        }
        const n = Math.min(FRAME_HEADER_BYTES - have, chunk.length - at);
        chunk.copy(header, have, at, at + n);
        have += n;
        at += n;
        if (have < FRAME_HEADER_BYTES) return;
        have = 0;
        left = header.readUInt32BE(4);
        if ((header[0] !== 1 && header[0] !== 2) || header.readUIntBE(1, 3) !== 0) {
          throw new WarrenError(
            "runtime_failed",
            "the container engine's output is not what its API promises",
          );
        }
      }
    },
  };
}
