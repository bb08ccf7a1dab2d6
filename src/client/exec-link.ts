import type { TransportSocket } from "./transport.ts";

/** How the frames of one exec session get to the server, and its output is held up when nobody reads. */
export interface ExecLink {
  /** Resolves when the sender may go on. In order, save that an urgent frame may overtake others that wait. */
  send(frame: string | Uint8Array, urgent: boolean): Promise<void>;
  /** That many bytes of output wait for the reader. */
  queued(bytes: number): void;
  /** He has taken them. */
  taken(bytes: number): void;
  /** Ends the command unless it has ended. Resolves when the server knows, or can't be told in time. */
  close(): Promise<void>;
}

/** Output kept for a reader that is behind; beyond it the server is held up. */
const MAX_UNREAD_BYTES = 1024 * 1024;

/** One connection, which the command ends with. */
export function singleLink(socket: TransportSocket): ExecLink {
  let unread = 0;
  return {
    send: (frame) => socket.send(frame),
    queued(bytes) {
      unread += bytes;
      if (unread > MAX_UNREAD_BYTES) socket.pause();
    },
    taken(bytes) {
      unread -= bytes;
      if (unread <= MAX_UNREAD_BYTES / 2) socket.resume();
    },
    async close() {
      // The server's closing frame may be behind output.
      socket.resume();
      socket.close();
    },
  };
}
