import type { Health, ServerApi, VersionInfo, WaitResult } from "../contracts/api.ts";
import type { CredentialInfo } from "../contracts/credentials.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { ExecResult } from "../contracts/exec.ts";
import type { FileDownload, FileInfo, WatchEvent } from "../contracts/files.ts";
import type { NetworkDecision, NetworkState } from "../contracts/network.ts";
import type { PreviewLink, PublishedPort } from "../contracts/ports.ts";
import type { PruneResult, SandboxInfo, SandboxStats, SystemStats } from "../contracts/sandbox.ts";
import type { Secret } from "../contracts/secrets.ts";
import type { SnapshotInfo } from "../contracts/snapshots.ts";
import type { VolumeInfo, VolumeUsage } from "../contracts/volumes.ts";
import { openExecSession } from "./exec-session.ts";
import { parseObject, readText } from "./failures.ts";
import { createFetchTransport } from "./fetch-transport.ts";
import { createHttp, type Http, PREFIX, type Query, readEvents } from "./http.ts";
import { createImages } from "./images.ts";
import { openLogs } from "./logs.ts";
import type { Transport, TransportResponse } from "./transport.ts";

export interface ClientOptions {
  /** Such as `http://127.0.0.1:8080`. */
  url: string;
  apiKey?: string;
  /** What this client is, for the server's audit log, such as `cli`. */
  client?: string;
  /** Default: `fetch` and `WebSocket`. */
  transport?: Transport;
  /** Hears when the connection of a running `execStream` is lost, which then goes on as soon as there is one again. */
  onConnection?: (state: "lost" | "restored") => void;
}

/** What a server does, over HTTP. Nothing is connected until the first call. */
export function createClient({
  url,
  apiKey,
  client,
  transport = createFetchTransport(url),
  onConnection,
}: ClientOptions): ServerApi {
  const http = createHttp(transport, url, apiKey, client);
  return {
    health: () => readHealth(http),
    version: () => http.json<VersionInfo>("GET", "/version"),
    create: (request, options) =>
      http.json<SandboxInfo>("POST", "/sandboxes", { json: request, signal: options?.signal }),
    get: async (id) => http.json<SandboxInfo>("GET", at(id)),
    list: (filter) => http.json<SandboxInfo[]>("GET", `/sandboxes${labelQuery(filter?.labels)}`),
    start: async (id) => http.json<SandboxInfo>("POST", at(id, "/start")),
    stop: async (id, options) =>
      http.json<SandboxInfo>("POST", at(id, "/stop"), {
        query: { timeout: options?.timeoutMs === undefined ? undefined : options.timeoutMs / 1000 },
      }),
    logs: (id, options = {}) => openLogs(http, () => at(id, "/logs"), options),
    wait: async (id, { timeoutS, signal } = {}) =>
      http.json<WaitResult>("GET", at(id, "/wait"), { query: { timeout: timeoutS }, signal }),
    pause: async (id) => http.json<SandboxInfo>("POST", at(id, "/pause")),
    resume: async (id) => http.json<SandboxInfo>("POST", at(id, "/resume")),
    update: async (id, changes) => http.json<SandboxInfo>("PATCH", at(id), { json: changes }),
    remove: async (id) => http.json<void>("DELETE", at(id)),
    extend: async (id, timeoutS) =>
      http.json<SandboxInfo>("POST", at(id, "/extend"), { json: { timeout: timeoutS } }),
    exec: async (id, request, options) =>
      http.json<ExecResult>("POST", at(id, "/exec"), { json: request, signal: options?.signal }),
    execStream: async (id, request, options) =>
      openExecSession(request, {
        openSocket: (handlers) =>
          transport.openSocket({
            ...handlers,
            path: PREFIX + at(id, "/exec/stream"),
            ...(apiKey === undefined ? {} : { apiKey }),
          }),
        where: url,
        isResumable: transport.isLocal !== true,
        onConnection,
        signal: options?.signal,
      }),
    network: {
      get: async (id) => http.json<NetworkState>("GET", at(id, "/network")),
      change: async (id, change) => http.json<SandboxInfo>("PATCH", at(id, "/network"), { json: change }),
      set: async (id, rules) => http.json<SandboxInfo>("PUT", at(id, "/network"), { json: rules }),
      explain: async (id, host, port) =>
        http.json<NetworkDecision>("GET", at(id, "/network/explain"), { query: { host, port } }),
      decisions: async (id) => http.json<NetworkDecision[]>("GET", at(id, "/network/decisions")),
    },
    secrets: {
      list: async (id) => http.json<Secret[]>("GET", at(id, "/secrets")),
      put: async (id, name, secret) =>
        http.json<SandboxInfo>("PUT", at(id, secretPath(name)), { json: secret }),
      remove: async (id, name) => http.json<SandboxInfo>("DELETE", at(id, secretPath(name))),
    },
    credentials: {
      list: async (id) => http.json<CredentialInfo[]>("GET", at(id, "/credentials")),
      put: async (id, kind, value) =>
        http.json<SandboxInfo>("PUT", at(id, credentialsPath(kind)), { json: value }),
      remove: async (id, kind) => http.json<SandboxInfo>("DELETE", at(id, credentialsPath(kind))),
    },
    ports: {
      list: async (id) => http.json<PublishedPort[]>("GET", at(id, "/ports")),
      add: async (id, port) => http.json<PublishedPort>("POST", at(id, "/ports"), { json: port }),
      remove: async (id, { sandboxPort, protocol }) =>
        http.json<void>("DELETE", at(id, `/ports/${sandboxPort}`), { query: { protocol } }),
    },
    events: ({ signal, sandbox, types } = {}) =>
      readUntil(http, "/events", { sandbox, type: types?.join(",") }, signal),
    preview: async (id, port, request = {}) =>
      http.json<PreviewLink>("POST", at(id, `/ports/${port}/preview`), { json: request }),
    files: {
      async read(id, path, options = {}) {
        const { offset, length, signal } = options;
        const response = await http.send("GET", at(id, "/files"), {
          query: { path, offset, length },
          signal,
        });
        return download(response, path);
      },
      async write(id, path, body, options = {}) {
        const { mode, parents, append, signal } = options;
        const query = { path, mode: mode?.toString(8), parents, append };
        const { bytes } = await http.json<{ bytes: number }>("PUT", at(id, "/files"), {
          query,
          body,
          signal,
        });
        return { bytes };
      },
      async remove(id, path) {
        await http.json("DELETE", at(id, "/files"), { query: { path } });
      },
      list: async (id, path) => http.json<FileInfo[]>("GET", at(id, "/files/list"), { query: { path } }),
      stat: async (id, path) => http.json<FileInfo>("GET", at(id, "/files/stat"), { query: { path } }),
      async mkdir(id, path) {
        await http.json("POST", at(id, "/files/mkdir"), { query: { path } });
      },
      async rename(id, from, to) {
        await http.json("POST", at(id, "/files/rename"), { json: { from, to } });
      },
      async chmod(id, path, mode) {
        await http.json("POST", at(id, "/files/chmod"), { json: { path, mode } });
      },
      watch: (id, path, { recursive, signal }) =>
        readUntil<WatchEvent>(http, at(id, "/files/watch"), { path, recursive }, signal),
    },
    images: createImages(http),
    snapshots: {
      create: async (id, request = {}, options) =>
        http.json<SnapshotInfo>("POST", at(id, "/snapshots"), { json: request, signal: options?.signal }),
      list: async ({ sandbox_id } = {}) =>
        http.json<SnapshotInfo[]>(
          "GET",
          sandbox_id === undefined ? "/snapshots" : at(sandbox_id, "/snapshots"),
        ),
      get: async (id) => http.json<SnapshotInfo>("GET", snapshotAt(id)),
      restore: async (id, request = {}, options) =>
        http.json<SandboxInfo>("POST", snapshotAt(id, "/restore"), {
          json: request,
          signal: options?.signal,
        }),
      remove: async (id) => http.json<void>("DELETE", snapshotAt(id)),
    },
    volumes: {
      create: (request) => http.json<VolumeInfo>("POST", "/volumes", { json: request }),
      get: (name, options) =>
        http.json<VolumeInfo>("GET", "/volumes/inspect", { query: { ...options, name } }),
      list: (filter) => http.json<VolumeInfo[]>("GET", "/volumes", { query: { ...filter } }),
      remove: (name, options) => http.json<void>("DELETE", "/volumes", { query: { ...options, name } }),
      usage: (filter) => http.json<VolumeUsage[]>("GET", "/volumes/usage", { query: { ...filter } }),
    },
    prune: (options) => http.json<PruneResult>("POST", "/prune", { query: { ...options } }),
    stats: async (id) => http.json<SandboxStats>("GET", at(id, "/stats")),
    systemStats: () => http.json<SystemStats>("GET", "/stats"),
  };
}

/** An empty or dotted name would be another path's. */
function secretPath(name: string): string {
  if (!/^\w+$/.test(name))
    throw new WarrenError("invalid_request", "a secret's name is one of an environment variable");
  return `/secrets/${name}`;
}

function credentialsPath(kind: string): string {
  if (!/^\w+$/.test(kind)) throw new WarrenError("invalid_request", "there are no credentials of this kind");
  return `/credentials/${kind}`;
}

function at(id: string, rest = ""): string {
  // An empty or dotted id would name another route.
  if (id === "" || id === "." || id === "..") throw new WarrenError("sandbox_not_found", "sandbox not found");
  return `/sandboxes/${encodeURIComponent(id)}${rest}`;
}

function snapshotAt(id: string, rest = ""): string {
  if (id === "" || id === "." || id === "..")
    throw new WarrenError("snapshot_not_found", "snapshot not found");
  return `/snapshots/${encodeURIComponent(id)}${rest}`;
}

/** Unhealthy is an answer here, though its status is 503. */
async function readHealth(http: Http): Promise<Health> {
  const response = await http.send("GET", "/health", { accept: 503 });
  const body = parseObject(await readText(response.body));
  if (typeof body.status === "string") return body as unknown as Health;
  throw new WarrenError("engine_unavailable", `${http.where} did not answer with its health`);
}

function download(response: TransportResponse, path: string): FileDownload {
  const header = response.header("x-warren-file-info");
  if (header === undefined) {
    throw new WarrenError("engine_unavailable", "the server's answer lacks the file's properties");
  }
  const name = path.split("/").findLast((part) => part !== "") ?? "/";
  return { info: { ...(JSON.parse(header) as FileInfo), name, path }, body: response.body };
}

/** Server-sent events until the signal fires, which is no failure. */
async function* readUntil<T>(
  http: Http,
  path: string,
  query: Query,
  signal: AbortSignal | undefined,
): AsyncGenerator<T> {
  try {
    const response = await http.send("GET", path, { query, signal });
    yield* readEvents<T>(response.body);
  } catch (error) {
    if (!signal?.aborted) throw error;
  }
}

function labelQuery(labels: Record<string, string> | undefined): string {
  const pairs = Object.entries(labels ?? {}).map(
    ([name, value]) => `label=${encodeURIComponent(`${name}=${value}`)}`,
  );
  return pairs.length === 0 ? "" : `?${pairs.join("&")}`;
}
