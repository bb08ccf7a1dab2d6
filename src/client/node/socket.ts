import type { IncomingMessage } from "node:http";
import { connect } from "node:net";
import type { RawData } from "ws";
import { responseError } from "../failures.ts";
import { type SocketRequest, SUBPROTOCOL, type TransportSocket } from "../transport.ts";
import { adopt, unopened, upgradeLocally } from "./local-upgrade.ts";
import { toResponse } from "./response.ts";
import { type Target, trust } from "./target.ts";

/** Largest frame taken from a server: far above what ours sends. */
const MAX_FRAME_BYTES = 16 * 1024 * 1024;

/** How long the server may take to answer our closing frame. */
const GOODBYE_MS = 1_000;

/** A network that forgets a connection tells nobody: after 30 s of silence the kernel asks. For `net.connect`. */
const probing = { keepAlive: true, keepAliveInitialDelay: 30_000 };

/** Opens a WebSocket through `ws`, which is loaded only here: most short commands need none. */
export async function openNodeSocket(
  target: Target,
  { path, apiKey, signal, onMessage, onClose }: SocketRequest,
  connectMs: number,
): Promise<TransportSocket> {
  const { connection } = target;
  const headers: Record<string, string> = apiKey === undefined ? {} : { "x-api-key": apiKey };
  const [{ WebSocket }, upgraded] = await Promise.all([
    import("ws"),
    "socketPath" in connection
      ? upgradeLocally({
          socketPath: connection.socketPath,
          path: target.basePath + path,
          headers,
          timeoutMs: connectMs,
          signal,
        })
      : undefined,
  ]);
  if (signal?.aborted) {
    upgraded?.socket.destroy();
    signal.throwIfAborted();
  }
  const local = upgraded && { ...upgraded, webSocket: unopened(WebSocket, GOODBYE_MS) };
  const socket =
    local?.webSocket ??
    new WebSocket(addressOf(target, path), [SUBPROTOCOL], {
      ...("socketPath" in connection ? { createConnection: () => connect(connection.socketPath) } : {}),
      ...(target.tls ? trust(target) : {}),
      ...probing,
      headers,
      handshakeTimeout: connectMs,
      maxPayload: MAX_FRAME_BYTES,
      perMessageDeflate: false,
    });
  const abort = () => socket.terminate();
  signal?.addEventListener("abort", abort, { once: true });
  // Listening before the socket opens: frames may come in the same piece as the server's handshake.
  socket.on("message", (data, isBinary) => onMessage(isBinary ? toBytes(data) : data.toString()));
  await new Promise<void>((resolve, reject) => {
    socket.once("open", resolve);
    socket.once("unexpected-response", (_request, response: IncomingMessage) => {
      responseError(toResponse(response))
        .then(reject, reject)
        .finally(() => socket.terminate());
    });
    socket.on("error", reject);
    socket.once("close", () => {
      signal?.removeEventListener("abort", abort);
      reject(new Error("the connection was closed"));
      onClose();
    });
    if (local) adopt(local.webSocket, local, MAX_FRAME_BYTES);
  });
  return {
    send: (data) =>
      new Promise((resolve) => {
        if (socket.readyState === WebSocket.OPEN) socket.send(data, () => resolve());
        else resolve();
      }),
    pause: () => socket.pause(),
    resume: () => socket.resume(),
    close() {
      socket.close(1000);
      // A server that hangs must not keep this process alive.
      const cut = setTimeout(() => socket.terminate(), GOODBYE_MS).unref();
      socket.once("close", () => clearTimeout(cut));
    },
    drop: () => socket.terminate(),
  };
}

function addressOf({ tls, connection, basePath }: Target, path: string): string {
  const scheme = tls ? "wss" : "ws";
  if ("socketPath" in connection) return `${scheme}://localhost${basePath}${path}`;
  const host = connection.hostname.includes(":") ? `[${connection.hostname}]` : connection.hostname;
  return `${scheme}://${host}:${connection.port}${basePath}${path}`;
}

function toBytes(data: RawData): Uint8Array {
  if (Array.isArray(data)) return Buffer.concat(data);
  return data instanceof ArrayBuffer ? new Uint8Array(data) : data;
}
