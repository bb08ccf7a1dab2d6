import { Agent, type ClientRequest, request as httpRequest, type IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { pipeline } from "node:stream/promises";
import { type ErrorCode, WarrenError } from "../../contracts/errors.ts";
import { cancelled, throwIfAborted } from "../../lib/signals.ts";
import { describeEndpoint, type Endpoint, openConnection, unreachable } from "./endpoint.ts";

/** The newest API that this client was written for (Docker 27). Older engines are spoken to in theirs. */
const NEWEST_API = "1.47";
/** The oldest that has all that is used here (Docker 19.03). */
const OLDEST_API = "1.40";
/** For an answer that comes at once. A busy engine takes seconds for a create. */
const DEFAULT_TIMEOUT_MS = 60_000;
/** Of a JSON answer: an inspection is some ten KiB, a list of thousands of containers some MiB. */
const MAX_JSON_BYTES = 64 * 1024 * 1024;
/** Of the engine's own words in our sentences. */
const MAX_WORDS = 2_000;

type Query = Record<string, string | number | boolean | undefined | Record<string, readonly string[]>>;

export interface ApiRequest {
  method?: "GET" | "POST" | "PUT" | "DELETE" | "HEAD";
  /** Below the version, such as `/containers/json`. What comes from outside goes through `encodeURIComponent`. */
  path: string;
  /** Objects are sent as JSON, as `filters` are. */
  query?: Query;
  /** An object is sent as JSON, a stream as an uncompressed tar. */
  body?: object | AsyncIterable<Uint8Array>;
  headers?: Record<string, string>;
  /** Milliseconds until the answer's head has come and, of a JSON answer, its end. 0: as long as it takes. */
  timeoutMs?: number;
  signal?: AbortSignal;
}

/** What the engine said to a request that it refused. */
export class EngineRefusal extends Error {
  readonly status: number;
  constructor(status: number, words: string) {
    super(words);
    this.status = status;
  }
}

/**
 * A Docker-compatible API. Answers are a stranger's: they are bounded, and whoever reads one checks what it uses.
 * Every call throws `EngineRefusal` for an answer of 400 or more, and `WarrenError`: `runtime_unavailable` when the engine
 * can't be reached or goes away, `runtime_failed` for what is no answer, `deadline_exceeded`, `cancelled`.
 */
export interface ApiClient {
  readonly endpoint: Endpoint;
  /** The parsed body; undefined when there is none. */
  json(request: ApiRequest): Promise<unknown>;
  /** The body as it comes. Whoever takes it must read or destroy it. */
  stream(request: ApiRequest): Promise<IncomingMessage>;
  /** The connection itself, after the engine has agreed to give it up; `head` is what it has sent already. */
  hijack(request: ApiRequest): Promise<Duplex>;
  /** Closes idle connections. */
  close(): void;
}

export interface ApiClientOptions {
  /** Brings a service back that has gone. What is safe to ask twice is then asked again, once. */
  revive?(): Promise<void>;
}

export function createApiClient(endpoint: Endpoint, { revive }: ApiClientOptions = {}): ApiClient {
  const agent = new EndpointAgent(endpoint);
  let version: Promise<string> | undefined;

  /** What the engine speaks and we do; asked once, and again after a failure. */
  const prefix = (): Promise<string> => {
    version ??= negotiate(agent, endpoint).catch((error: unknown) => {
      version = undefined;
      throw error;
    });
    return version;
  };

  const sendOnce = async (request: ApiRequest, upgrade: boolean): Promise<Answer> =>
    open(agent, endpoint, `${await prefix()}${request.path}${encodeQuery(request.query)}`, request, upgrade);

  /** Again with a service that was brought back, if nobody can have begun to do it, or doing it twice changes nothing. */
  const withRevival = async <T>(request: ApiRequest, task: () => Promise<T>): Promise<T> => {
    try {
      return await task();
    } catch (error) {
      if (!revive || !isRepeatable(error, request)) throw error;
      await revive();
      throwIfAborted(request.signal);
      return await task();
    }
  };
  const send = (request: ApiRequest, upgrade = false): Promise<Answer> =>
    withRevival(request, () => sendOnce(request, upgrade));

  return {
    endpoint,
    json: (request) =>
      withRevival(request, async () => {
        const answer = await sendOnce(request, false);
        try {
          const text = (await readAll(answer.message, MAX_JSON_BYTES)).toString("utf8");
          return text.trim() === "" ? undefined : parseJson(text);
        } catch (error) {
          throw answer.explain(error);
        } finally {
          answer.done();
        }
      }),
    async stream(request) {
      const answer = await send(request);
      answer.message.once("close", answer.done);
      return answer.message;
    },
    async hijack(request) {
      const answer = await send(request, true);
      answer.done();
      if (!answer.socket) {
        answer.message.destroy();
        throw new WarrenError("runtime_failed", "the container engine did not give the connection up");
      }
      return answer.socket;
    },
    close: () => agent.destroy(),
  };
}

/** Failures of requests of which not one byte has left us. */
const unsent = new WeakSet<WarrenError>();

function isRepeatable(error: unknown, { method = "GET", body }: ApiRequest): boolean {
  if (!(error instanceof WarrenError && error.code === "runtime_unavailable")) return false;
  // A stream that was read from is not there a second time.
  if (body !== undefined && Symbol.asyncIterator in body) return false;
  // What is gone already counts as removed.
  return unsent.has(error) || method === "GET" || method === "HEAD" || method === "DELETE";
}

/** A failure as ours: `codes` say what an answer's status means here; 5xx and all others are `runtime_failed`. */
export function engineFailure(
  error: unknown,
  what: string,
  codes: Readonly<Record<number, ErrorCode>> = {},
  hint?: string,
): WarrenError {
  if (error instanceof WarrenError) return error;
  if (!(error instanceof EngineRefusal)) return new WarrenError("runtime_failed", what, { cause: error });
  const code = codes[error.status] ?? "runtime_failed";
  return new WarrenError(code, `${what}: ${error.message}`, {
    cause: error,
    ...(hint === undefined ? {} : { hint }),
  });
}

/** Without control characters, and not endless: it is shown to people, and written to logs. */
export function engineWords(text: string): string {
  const clean = text.replace(/[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]+/gu, " ").trim();
  return clean.length > MAX_WORDS ? `${clean.slice(0, MAX_WORDS)}…` : clean || "it said nothing";
}

class EndpointAgent extends Agent {
  readonly #endpoint: Endpoint;
  constructor(endpoint: Endpoint) {
    // A new connection to a Unix socket costs little, and tells at once that its service has gone: nothing was sent then.
    super({ keepAlive: endpoint.kind !== "unix", maxFreeSockets: 8, timeout: 30_000 });
    this.#endpoint = endpoint;
  }

  override createConnection(
    _options: unknown,
    callback?: (error: Error | null, stream: Duplex) => void,
  ): undefined {
    openConnection(this.#endpoint).then(
      (stream) => callback?.(null, stream),
      (error: Error) => callback?.(error, undefined as unknown as Duplex),
    );
    return undefined;
  }

  // Connections stay half open when the engine closes its end, as hijacked ones must: an idle one would be taken for a good one.
  override keepSocketAlive(socket: Duplex): boolean {
    socket.once("end", destroyThis);
    // The types say that it gives nothing back.
    return super.keepSocketAlive(socket) as unknown as boolean;
  }

  override reuseSocket(socket: Duplex, request: ClientRequest): void {
    socket.removeListener("end", destroyThis);
    super.reuseSocket(socket, request);
  }
}

function destroyThis(this: Duplex): void {
  this.destroy();
}

interface Answer {
  message: IncomingMessage;
  /** Of an upgrade. */
  socket?: Duplex;
  /** No timeout and no signal ends it any more. */
  done(): void;
  /** Why it ended early. */
  explain(error: unknown): unknown;
}

async function negotiate(agent: Agent, endpoint: Endpoint): Promise<string> {
  const answer = await open(agent, endpoint, "/_ping", { path: "" }, false);
  try {
    await readAll(answer.message, MAX_WORDS);
  } finally {
    answer.done();
  }
  const theirs = answer.message.headers["api-version"];
  if (typeof theirs !== "string" || !/^\d{1,2}\.\d{1,3}$/.test(theirs)) {
    throw new WarrenError(
      "runtime_unavailable",
      `what answers at ${describeEndpoint(endpoint)} is no Docker-compatible container engine`,
    );
  }
  if (compareVersions(theirs, OLDEST_API) < 0) {
    throw new WarrenError(
      "runtime_unavailable",
      `the container engine at ${describeEndpoint(endpoint)} is too old: it speaks API ${theirs}, and ${OLDEST_API} is needed`,
    );
  }
  return `/v${compareVersions(theirs, NEWEST_API) < 0 ? theirs : NEWEST_API}`;
}

function compareVersions(a: string, b: string): number {
  const [aMajor = 0, aMinor = 0] = a.split(".").map(Number);
  const [bMajor = 0, bMinor = 0] = b.split(".").map(Number);
  return aMajor - bMajor || aMinor - bMinor;
}

function encodeQuery(query: Query = {}): string {
  const pairs = Object.entries(query).filter(([, value]) => value !== undefined);
  if (pairs.length === 0) return "";
  return `?${pairs
    .map(([name, value]) => {
      const text = typeof value === "object" ? JSON.stringify(value) : String(value);
      return `${name}=${encodeURIComponent(text)}`;
    })
    .join("&")}`;
}

function open(
  agent: Agent,
  endpoint: Endpoint,
  path: string,
  request: ApiRequest,
  upgrade: boolean,
): Promise<Answer> {
  const { method = "GET", body, headers = {}, timeoutMs = DEFAULT_TIMEOUT_MS, signal } = request;
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(cancelled(signal));
    const streamed = body !== undefined && Symbol.asyncIterator in body ? body : undefined;
    const json = body === undefined || streamed ? undefined : Buffer.from(JSON.stringify(body));
    const outgoing = httpRequest({
      agent,
      method,
      path,
      // A name that the engine ignores; Go's server wants one.
      headers: {
        host: "warren",
        ...headers,
        ...(json ? { "content-type": "application/json", "content-length": String(json.length) } : {}),
        ...(streamed ? { "content-type": "application/x-tar" } : {}),
        ...(upgrade ? { connection: "Upgrade", upgrade: "tcp" } : {}),
      },
    });
    let why: WarrenError | undefined;
    const end = (reason: WarrenError) => {
      why ??= reason;
      outgoing.destroy(reason);
    };
    const timer =
      timeoutMs > 0
        ? setTimeout(
            () =>
              end(
                new WarrenError(
                  "deadline_exceeded",
                  `the container engine did not answer ${method} ${path.replace(/\?.*/, "")} in ${timeoutMs / 1000} s`,
                ),
              ),
            timeoutMs,
          )
        : undefined;
    const onAbort = () => end(cancelled(signal));
    signal?.addEventListener("abort", onAbort, { once: true });
    const done = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    };
    let isConnected = false;
    outgoing.once("socket", () => {
      isConnected = true;
    });
    const explain = (error: unknown): unknown => {
      if (why) return why;
      if (error instanceof EngineRefusal) return error;
      const failure = error instanceof WarrenError ? error : unreachable(endpoint, error as Error);
      if (!isConnected) unsent.add(failure);
      return failure;
    };
    const fail = (error: unknown) => {
      done();
      reject(explain(error));
    };
    outgoing.on("error", fail);
    const refuse = async (message: IncomingMessage, status: number) => {
      const error = await refusal(message, status).catch((cause: unknown) => cause);
      // Else what it doesn't read of a body would be waited for.
      if (streamed) outgoing.destroy();
      fail(error);
    };
    const settle = (message: IncomingMessage, socket?: Duplex) => {
      const status = message.statusCode ?? 0;
      // 304: it is so already. All others would send us to a place that we did not ask for.
      if (status >= 300 && status !== 304) {
        void refuse(message, status);
        return;
      }
      // Only its head was awaited; what comes of a stream takes as long as it takes.
      if (socket || streamed || request.timeoutMs === 0) clearTimeout(timer);
      resolve({ message, done, explain, ...(socket ? { socket } : {}) });
    };
    outgoing.on("response", (message) => settle(message));
    outgoing.on("upgrade", (message, socket, head) => {
      if (head.length > 0) socket.unshift(head);
      settle(message, socket);
    });
    if (!streamed) outgoing.end(json);
    // When the source fails, the request is given up without an error of its own.
    else pipeline(streamed, outgoing).catch(fail);
  });
}

async function refusal(message: IncomingMessage, status: number): Promise<EngineRefusal> {
  const text = (await readAll(message, 65_536)).toString("utf8");
  let words = text;
  try {
    const parsed = JSON.parse(text) as { message?: unknown; cause?: unknown };
    if (typeof parsed?.message === "string") words = parsed.message;
  } catch {
    // A proxy's page, or nothing.
  }
  return new EngineRefusal(status, engineWords(words));
}

async function readAll(stream: AsyncIterable<Buffer>, most: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of stream) {
    size += chunk.length;
    if (size > most) throw new WarrenError("runtime_failed", "the container engine's answer is too long");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new WarrenError("runtime_failed", "the container engine's answer is not JSON", { cause });
  }
}
