import { once } from "node:events";
import { stat } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { WarrenError } from "../../contracts/errors.ts";

const CONNECT_MS = 5_000;

/**
 * A connection to the SSH agent at this path, which is looked up each time: an agent that was started again is found.
 * @throws WarrenError `invalid_request`
 */
export async function connectAgent(path: string): Promise<Socket> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => error);
  if (found instanceof Error)
    throw refuse(path, found.code === "EACCES" ? "can't be reached" : "is not there");
  if (!found.isSocket()) throw refuse(path, "is no socket");
  const socket = connect({ path }).on("error", () => {});
  try {
    await once(socket, "connect", { signal: AbortSignal.timeout(CONNECT_MS) });
  } catch (error) {
    socket.destroy();
    const isForbidden = (error as NodeJS.ErrnoException).code === "EACCES";
    throw refuse(path, isForbidden ? "can't be used by the engine's user" : "has nobody who answers");
  }
  return socket;
}

function refuse(path: string, why: string): WarrenError {
  return new WarrenError("invalid_request", `ssh_agent.socket: ${JSON.stringify(path)} ${why}`, {
    hint: "name the socket of an SSH agent on the engine's machine: eval $(ssh-agent); ssh-add; echo $SSH_AUTH_SOCK",
  });
}
