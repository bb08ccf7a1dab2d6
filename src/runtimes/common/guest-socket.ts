import { connect, type Socket } from "node:net";
import { WarrenError } from "../../contracts/errors.ts";

/**
 * A connection to the guest that listens at this path. Half-close is part of the guest protocol's DIAL.
 * @throws WarrenError `guest_failed`
 */
export function connectGuest(path: string, id: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path, allowHalfOpen: true });
    const onError = (cause: Error) => reject(guestUnreachable(id, cause));
    socket.once("error", onError);
    socket.once("connect", () => {
      socket.removeListener("error", onError);
      resolve(socket);
    });
  });
}

export function guestUnreachable(id: string, cause: unknown): WarrenError {
  return new WarrenError("guest_failed", `the guest of sandbox ${id} can't be reached`, { cause });
}
