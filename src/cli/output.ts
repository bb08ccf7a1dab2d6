import { write } from "node:fs";

/** The reader of our stdout has gone, as in `warren ls | head -1`. Not worth a word to anybody. */
export class BrokenPipe extends Error {}

/** Exit code of a program that SIGPIPE ended. */
export const EXIT_BROKEN_PIPE = 141;

/**
 * Writes all of it to a file descriptor. It goes through the thread pool: `process.stdout.write` to a pipe is
 * synchronous on Linux, and a reader that stalls would then keep us from handling signals.
 * Throws `BrokenPipe` when nobody reads any more.
 */
export async function writeFully(fd: number, data: Uint8Array | string): Promise<void> {
  let rest = typeof data === "string" ? Buffer.from(data) : data;
  while (rest.length > 0) {
    const written = await writeSome(fd, rest);
    rest = rest.subarray(written);
  }
}

function writeSome(fd: number, data: Uint8Array): Promise<number> {
  return new Promise((resolve, reject) => {
    write(fd, data, 0, data.length, null, (error, written) => {
      if (!error) {
        resolve(written);
      } else if (error.code === "EAGAIN") {
        // Somebody who shares the descriptor made it non-blocking.
        setTimeout(() => resolve(0), 5);
      } else if (error.code === "EPIPE") {
        reject(new BrokenPipe());
      } else {
        reject(error);
      }
    });
  });
}

export const print = (line: string): Promise<void> => writeFully(1, `${line}\n`);

/** A line for the person at the keyboard. It must never be the reason why a command fails. */
export async function say(line: string): Promise<void> {
  await writeFully(2, `${line}\n`).catch(() => {});
}
