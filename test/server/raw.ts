import { once } from "node:events";
import { connect, type Socket } from "node:net";

/** Sends bytes as they are and gives all that comes back until the server closes or a whole response has arrived. */
export async function rawExchange(port: number, request: string | Uint8Array): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  await once(socket, "connect");
  socket.write(request);
  return await readResponse(socket);
}

export async function readResponse(socket: Socket): Promise<string> {
  let text = "";
  try {
    for await (const chunk of socket) {
      text += chunk.toString("latin1");
      const head = text.indexOf("\r\n\r\n");
      const length = Number(/content-length: (\d+)/i.exec(text)?.[1] ?? Number.NaN);
      if (head >= 0 && text.length >= head + 4 + length) break;
    }
  } finally {
    socket.destroy();
  }
  return text;
}

/** Opens a WebSocket by hand: status line and headers of the answer. */
export function upgradeRequest(path: string, headers: Record<string, string>): string {
  const lines = Object.entries({
    Connection: "Upgrade",
    Upgrade: "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    ...headers,
  }).map(([name, value]) => `${name}: ${value}`);
  return [`GET ${path} HTTP/1.1`, ...lines, "", ""].join("\r\n");
}
