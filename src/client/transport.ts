/** How bytes get to a server: `fetch` in a browser, `node:http` in Node, something else in a test. */
export interface Transport {
  /** True where a connection can't be lost while the server lives, so that nothing need be done against it. */
  readonly isLocal?: boolean;
  /** Resolves with the response's head. Rejects with whatever the platform throws; the client makes sense of it. */
  request(request: TransportRequest): Promise<TransportResponse>;
  /** Resolves once open. */
  openSocket(request: SocketRequest): Promise<TransportSocket>;
}

export type RequestBody = string | Uint8Array | AsyncIterable<Uint8Array>;

export interface TransportRequest {
  method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** From `/api/v1` on, with its query. */
  path: string;
  headers: Readonly<Record<string, string>>;
  body?: RequestBody;
  signal?: AbortSignal;
}

export interface TransportResponse {
  status: number;
  /** Value of a header; `name` in lower case. */
  header(name: string): string | undefined;
  /** Ending the iteration early closes the transfer. */
  body: AsyncIterable<Uint8Array>;
}

export interface SocketRequest {
  path: string;
  apiKey?: string;
  signal?: AbortSignal;
  onMessage(data: string | Uint8Array): void;
  /** Comes exactly once, after the last message. */
  onClose(): void;
}

export interface TransportSocket {
  /** Resolves when the data has left our buffers, as far as the platform tells. Sending on a closed socket does nothing. */
  send(data: string | Uint8Array): Promise<void>;
  /** Holds the other side up. Does nothing where the platform can't. */
  pause(): void;
  resume(): void;
  /** Tells the server that we are done. */
  close(): void;
  /** Lets go of a connection that seems dead, to come back on another. Nothing that it still brings matters. */
  drop(): void;
}

/** Subprotocols of an exec stream: ours, and for a browser, which can set no header, the one that carries the key. */
export const SUBPROTOCOL = "warren.v1";
