import type { WebSocket } from "ws";
import { execChannels } from "../contracts/constants.ts";
import type { WarrenError } from "../contracts/errors.ts";
import type { ExecExit, ExecOutput, ExecServerFrame } from "../contracts/exec.ts";

// The server's frames of docs/wire/rest.md, "The exec stream".

export function binaryFrame({ stream, data }: ExecOutput): Uint8Array {
  const frame = new Uint8Array(data.length + 1);
  frame[0] = execChannels[stream];
  frame.set(data, 1);
  return frame;
}

export function textFrame(frame: ExecServerFrame): string {
  return JSON.stringify(frame);
}

export function exitFrame({ exit_code, ...details }: ExecExit): string {
  return textFrame({ type: "exit", data: String(exit_code), ...details });
}

export function errorFrame({ message, code, hint }: WarrenError): string {
  return textFrame({ type: "error", data: message, code, ...(hint === undefined ? {} : { hint }) });
}

/** Tells why, and closes. */
export function refuse(socket: WebSocket, error: WarrenError): void {
  if (socket.readyState !== socket.OPEN) return;
  socket.send(errorFrame(error), () => undefined);
  closeAfter(socket, error);
}

/** Closes behind the last frame: the exit of the command, or why there is none. */
export function closeAfter(socket: WebSocket, error?: WarrenError): void {
  // 1001 going away, 1008 policy violation, 1011 internal error (RFC 6455, 7.4.1).
  if (error === undefined) socket.close(1000);
  else socket.close(error.code === "shutting_down" ? 1001 : error.status >= 500 ? 1011 : 1008, error.code);
}
