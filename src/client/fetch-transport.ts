import { EXEC_CLOSE_RETURNING } from "../contracts/constants.ts";
import type { RequestBody, SocketRequest, Transport, TransportSocket } from "./transport.ts";
import { SUBPROTOCOL } from "./transport.ts";

/** Over the platform's `fetch` and `WebSocket`: browsers, Deno, Bun, Node 22. */
export function createFetchTransport(url: string): Transport {
  const base = url.replace(/\/+$/, "");
  return {
    async request({ method, path, headers, body, signal }) {
      const sent = body === undefined ? undefined : await gather(body);
      const response = await fetch(base + path, {
        method,
        headers,
        // No cookies and no cached answers: the key is the only credential, and state changes under our feet.
        credentials: "omit",
        cache: "no-store",
        ...(sent === undefined ? {} : { body: sent }),
        ...(signal ? { signal } : {}),
      });
      return {
        status: response.status,
        header: (name) => response.headers.get(name) ?? undefined,
        body: chunksOf(response.body),
      };
    },
    openSocket: (request) => openSocket(base, request),
  };
}

/** The chunks of a web stream; not every browser can iterate over one. */
export function chunksOf(stream: ReadableStream<Uint8Array> | null): AsyncIterable<Uint8Array> {
  return {
    [Symbol.asyncIterator]() {
      const reader = stream?.getReader();
      return {
        async next() {
          const result = await reader?.read();
          return result === undefined || result.done
            ? { done: true, value: undefined }
            : { done: false, value: result.value };
        },
        async return() {
          await reader?.cancel();
          return { done: true, value: undefined };
        },
      };
    },
  };
}

/** Browsers can't stream a request body over HTTP/1.1, so it becomes a Blob, which they may keep on disk. */
async function gather(body: RequestBody): Promise<string | Blob> {
  if (typeof body === "string") return body;
  const parts: BlobPart[] = [];
  // Copied: a Blob takes no view of shared memory.
  if (body instanceof Uint8Array) parts.push(new Uint8Array(body));
  else for await (const chunk of body) parts.push(new Uint8Array(chunk));
  return new Blob(parts);
}

function openSocket(base: string, request: SocketRequest): Promise<TransportSocket> {
  const { path, apiKey, signal, onMessage, onClose } = request;
  // A browser can set no header on an upgrade, so the key travels as a subprotocol, which the server never repeats.
  const protocols = apiKey === undefined ? [SUBPROTOCOL] : [SUBPROTOCOL, `warren-key.${base64url(apiKey)}`];
  const socket = new WebSocket(base.replace(/^http/i, "ws") + path, protocols);
  socket.binaryType = "arraybuffer";
  return new Promise((resolve, reject) => {
    const abort = () => socket.close();
    signal?.addEventListener("abort", abort, { once: true });
    socket.onmessage = ({ data }) => onMessage(typeof data === "string" ? data : new Uint8Array(data));
    socket.onclose = () => {
      signal?.removeEventListener("abort", abort);
      // Browsers tell no reason for a refused upgrade.
      reject(new Error("the WebSocket could not be opened"));
      onClose();
    };
    socket.onopen = () =>
      resolve({
        async send(data) {
          if (socket.readyState === WebSocket.OPEN) {
            socket.send(typeof data === "string" ? data : new Uint8Array(data));
          }
        },
        pause() {},
        resume() {},
        close: () => socket.close(1000),
        // Nothing but a closing frame can be sent from a page, should the connection be alive after all.
        drop: () => socket.close(EXEC_CLOSE_RETURNING),
      });
  });
}

function base64url(text: string): string {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}
