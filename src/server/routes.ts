import { z } from "zod";
import type { ErrorCode } from "../contracts/errors.ts";
import { ExecRequest, ExecResult, ExecStreamStart } from "../contracts/exec.ts";
import { FileInfo } from "../contracts/files.ts";
import { ImageInfo, PullImage } from "../contracts/images.ts";
import { NetworkDecision, NetworkRules, PortMapping } from "../contracts/network.ts";
import {
  CreateSandbox,
  ExtendRequest,
  PruneResult,
  SandboxInfo,
  SandboxStats,
  SandboxStatus,
  SystemStats,
  UpdateSandbox,
} from "../contracts/sandbox.ts";
import { CreateVolume, VolumeInfo, VolumeUsage } from "../contracts/volumes.ts";
import {
  BuildQuery,
  ExplainQuery,
  ImageQuery,
  ImagesQuery,
  ListSandboxesQuery,
  LogsQuery,
  PathQuery,
  PruneQuery,
  ReadQuery,
  RemoveVolumeQuery,
  StopQuery,
  VolumeQuery,
  VolumesQuery,
  WaitQuery,
  WatchQuery,
  WriteQuery,
} from "./query.ts";

/** Where all routes are below. */
export const PREFIX = "/api/v1";

export interface Route {
  method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** Below `PREFIX`; `:name` stands for one part, which is not empty. */
  path: `/${string}`;
  /** Name of the handler. */
  operation: string;
  summary: string;
  /** No API key is asked for. */
  open?: true;
  query?: z.ZodObject;
  /** Schema of a JSON body, of the first frame where `response` is a WebSocket, or another kind of body. */
  request?: z.ZodType | "bytes" | "multipart";
  /** Status of success. */
  status: number;
  response: z.ZodType | "bytes" | "events" | "websocket" | "nothing";
  /** Failures of this route beside those that every route has. */
  errors: readonly ErrorCode[];
}

export const Health = z.object({
  status: z.enum(["ok", "unhealthy"]),
  reason: z.string().optional(),
  features: z.array(z.string()),
});
const Version = z.object({
  version: z.string(),
  commit: z.string(),
  build_date: z.string(),
  features: z.array(z.string()),
});
const WaitAnswer = z.object({ exit_code: z.number().int().nullable(), status: SandboxStatus });
const Success = z.object({ success: z.literal(true) });
const Written = Success.extend({ bytes: z.number().int() });

/** What no file system mode goes beyond: permission bits, set-id and sticky. */
const MAX_MODE = 0o7777;

/** den has no such request; the path is checked as those in queries are. */
export const RenameRequest = z
  .object({ from: z.string({ error: "from is required" }), to: z.string({ error: "to is required" }) })
  .meta({ id: "RenameRequest" });
export const ChmodRequest = z
  .object({
    path: z.string({ error: "path is required" }),
    mode: z.number().int().min(0).max(MAX_MODE).meta({ description: "Permission bits, 420 for 0644" }),
  })
  .meta({ id: "ChmodRequest" });

const inSandbox = ["sandbox_not_found", "sandbox_wrong_state", "guest_failed"] as const;
const onFile = [
  ...inSandbox,
  "invalid_path",
  "file_not_found",
  "permission_denied",
  "not_a_directory",
] as const;

/** Failures that go together, by the name that docs/wire/rest.md gives them. */
export const errorGroups = {
  inside: inSandbox,
  lifecycle: [
    "sandbox_not_found",
    "runtime_failed",
    "runtime_unavailable",
    "guest_failed",
    "deadline_exceeded",
  ],
  command: [...inSandbox, "file_not_found", "permission_denied", "rate_limited"],
  file: onFile,
  write: [...onFile, "not_a_file", "too_large", "no_space", "cancelled"],
  creation: [
    "unsupported",
    "name_taken",
    "image_not_found",
    "image_invalid",
    "image_pull_failed",
    "too_large",
    "too_many_sandboxes",
    "host_under_pressure",
    "runtime_failed",
    "runtime_unavailable",
    "guest_failed",
    "deadline_exceeded",
    "no_space",
    "cancelled",
  ],
  /** Of what a runtime has beside sandboxes. */
  store: ["unsupported", "runtime_failed", "runtime_unavailable"],
  /** Of every route. */
  any: ["invalid_request", "unauthenticated", "forbidden", "internal", "engine_unavailable", "shutting_down"],
} as const satisfies Record<string, readonly ErrorCode[]>;
const { inside, lifecycle, command, file, write, creation, store } = errorGroups;

/** The API. The app is built from this table, and docs/wire/rest.md is checked against it. */
export const routes = [
  {
    method: "GET",
    path: "/health",
    operation: "health",
    summary: "Whether sandboxes can be created; 503 with the same body when they can't",
    open: true,
    status: 200,
    response: Health,
    errors: [],
  },
  {
    method: "GET",
    path: "/version",
    operation: "version",
    summary: "Build and feature tokens",
    open: true,
    status: 200,
    response: Version,
    errors: [],
  },
  {
    method: "POST",
    path: "/sandboxes",
    operation: "createSandbox",
    summary: "Creates and starts a sandbox",
    request: CreateSandbox,
    status: 201,
    response: SandboxInfo,
    errors: creation,
  },
  {
    method: "GET",
    path: "/sandboxes",
    operation: "listSandboxes",
    summary: "All sandboxes, oldest first",
    query: ListSandboxesQuery,
    status: 200,
    response: z.array(SandboxInfo),
    errors: [],
  },
  {
    method: "GET",
    path: "/sandboxes/:id",
    operation: "getSandbox",
    summary: "One sandbox",
    status: 200,
    response: SandboxInfo,
    errors: ["sandbox_not_found"],
  },
  {
    method: "DELETE",
    path: "/sandboxes/:id",
    operation: "removeSandbox",
    summary: "Stops and forgets a sandbox with everything that was written in it",
    status: 204,
    response: "nothing",
    errors: lifecycle,
  },
  {
    method: "POST",
    path: "/sandboxes/:id/start",
    operation: "startSandbox",
    summary: "Starts a stopped sandbox; a running one is success",
    status: 200,
    response: SandboxInfo,
    errors: [...lifecycle, "sandbox_wrong_state"],
  },
  {
    method: "POST",
    path: "/sandboxes/:id/stop",
    operation: "stopSandbox",
    summary: "Stops a sandbox, its files stay; a stopped one is success",
    query: StopQuery,
    status: 200,
    response: SandboxInfo,
    errors: [...lifecycle, "sandbox_wrong_state"],
  },
  {
    method: "GET",
    path: "/sandboxes/:id/logs",
    operation: "readLogs",
    summary: "Output of the main command, kept and coming, as server-sent events",
    query: LogsQuery,
    status: 200,
    response: "events",
    errors: ["sandbox_not_found"],
  },
  {
    method: "GET",
    path: "/sandboxes/:id/wait",
    operation: "waitSandbox",
    summary: "Answers when the sandbox no longer runs, or the timeout is over",
    query: WaitQuery,
    status: 200,
    response: WaitAnswer,
    errors: ["sandbox_not_found", "cancelled"],
  },
  {
    method: "POST",
    path: "/sandboxes/:id/pause",
    operation: "pauseSandbox",
    summary: "Freezes a running sandbox; a paused one is success",
    status: 200,
    response: SandboxInfo,
    errors: [...lifecycle, "sandbox_wrong_state", "unsupported"],
  },
  {
    method: "POST",
    path: "/sandboxes/:id/resume",
    operation: "resumeSandbox",
    summary: "Lets a paused sandbox go on; a running one is success",
    status: 200,
    response: SandboxInfo,
    errors: [...lifecycle, "sandbox_wrong_state"],
  },
  {
    method: "PATCH",
    path: "/sandboxes/:id",
    operation: "updateSandbox",
    summary: "Changes limits, of a running sandbox at once; what is absent stays",
    request: UpdateSandbox,
    status: 200,
    response: SandboxInfo,
    errors: [...lifecycle, "sandbox_wrong_state", "unsupported"],
  },
  {
    method: "PUT",
    path: "/sandboxes/:id/network",
    operation: "setNetwork",
    summary: "Replaces the rules of filtered network, for open connections too",
    request: NetworkRules,
    status: 200,
    response: SandboxInfo,
    errors: [...lifecycle, "sandbox_wrong_state", "unsupported"],
  },
  {
    method: "GET",
    path: "/sandboxes/:id/network/explain",
    operation: "explainNetwork",
    summary: "What the rules say of a connection",
    query: ExplainQuery,
    status: 200,
    response: NetworkDecision,
    errors: ["sandbox_not_found", "unsupported"],
  },
  {
    method: "GET",
    path: "/sandboxes/:id/network/decisions",
    operation: "networkDecisions",
    summary: "The last connections that were asked for, the oldest first",
    status: 200,
    response: z.array(NetworkDecision),
    errors: ["sandbox_not_found", "unsupported"],
  },
  {
    method: "POST",
    path: "/sandboxes/:id/extend",
    operation: "extendSandbox",
    summary: "Sets a new expiry, counted from now",
    request: ExtendRequest,
    status: 200,
    response: SandboxInfo,
    errors: ["sandbox_not_found"],
  },
  {
    method: "GET",
    path: "/sandboxes/:id/stats",
    operation: "sandboxStats",
    summary: "Resource use now",
    status: 200,
    response: SandboxStats,
    errors: [...inside, "runtime_failed"],
  },
  {
    method: "POST",
    path: "/sandboxes/:id/exec",
    operation: "exec",
    summary: "Runs a command to its end; it is killed when the client goes away",
    request: ExecRequest,
    status: 200,
    response: ExecResult,
    errors: [...command, "too_large", "cancelled"],
  },
  {
    method: "GET",
    path: "/sandboxes/:id/exec/stream",
    operation: "execStream",
    summary: "Runs a command with live output, input, signals and a terminal",
    request: ExecStreamStart,
    status: 101,
    response: "websocket",
    errors: [...command, "exec_session_not_found"],
  },
  {
    method: "GET",
    path: "/sandboxes/:id/files",
    operation: "readFile",
    summary: "The bytes of a file",
    query: ReadQuery,
    status: 200,
    response: "bytes",
    errors: [...file, "not_a_file"],
  },
  {
    method: "PUT",
    path: "/sandboxes/:id/files",
    operation: "writeFile",
    summary: "Replaces a file with the request's body, in one step",
    query: WriteQuery,
    request: "bytes",
    status: 200,
    response: Written,
    errors: write,
  },
  {
    method: "DELETE",
    path: "/sandboxes/:id/files",
    operation: "removeFile",
    summary: "Removes a file or a whole directory; a missing one is success",
    query: PathQuery,
    status: 200,
    response: Success,
    errors: file,
  },
  {
    method: "GET",
    path: "/sandboxes/:id/files/list",
    operation: "listFiles",
    summary: "Entries of a directory, `/` when no path is given",
    query: PathQuery,
    status: 200,
    response: z.array(FileInfo),
    errors: [...file, "too_large"],
  },
  {
    method: "GET",
    path: "/sandboxes/:id/files/stat",
    operation: "statFile",
    summary: "What a path is; a final symbolic link is not followed",
    query: PathQuery,
    status: 200,
    response: FileInfo,
    errors: file,
  },
  {
    method: "POST",
    path: "/sandboxes/:id/files/mkdir",
    operation: "makeDirectory",
    summary: "Makes a directory and its parents; an existing one is success",
    query: PathQuery,
    status: 200,
    response: Success,
    errors: [...file, "file_exists", "no_space"],
  },
  {
    method: "POST",
    path: "/sandboxes/:id/files/rename",
    operation: "renameFile",
    summary: "Moves a file or directory within a file system",
    request: RenameRequest,
    status: 200,
    response: Success,
    errors: [...file, "file_exists", "not_a_file", "directory_not_empty"],
  },
  {
    method: "POST",
    path: "/sandboxes/:id/files/chmod",
    operation: "changeMode",
    summary: "Sets the permission bits",
    request: ChmodRequest,
    status: 200,
    response: Success,
    errors: file,
  },
  {
    method: "POST",
    path: "/sandboxes/:id/files/upload",
    operation: "uploadFile",
    summary: "Writes the form's file",
    query: WriteQuery,
    request: "multipart",
    status: 200,
    response: Written,
    errors: write,
  },
  {
    method: "GET",
    path: "/sandboxes/:id/files/download",
    operation: "downloadFile",
    summary: "The bytes of a file, as an attachment",
    query: ReadQuery,
    status: 200,
    response: "bytes",
    errors: [...file, "not_a_file"],
  },
  {
    method: "GET",
    path: "/sandboxes/:id/files/watch",
    operation: "watchFiles",
    summary: "Changes below a path as they happen, as server-sent events",
    query: WatchQuery,
    status: 200,
    response: "events",
    errors: file,
  },
  {
    method: "GET",
    path: "/sandboxes/:id/ports",
    operation: "listPorts",
    summary: "Published ports",
    status: 200,
    response: z.array(PortMapping),
    errors: ["sandbox_not_found"],
  },
  {
    method: "POST",
    path: "/sandboxes/:id/ports",
    operation: "addPort",
    summary: "Refused with status 501, as by den",
    status: 501,
    response: "nothing",
    errors: ["unsupported"],
  },
  {
    method: "DELETE",
    path: "/sandboxes/:id/ports/:port",
    operation: "removePort",
    summary: "Refused with status 501, as by den",
    status: 501,
    response: "nothing",
    errors: ["unsupported"],
  },
  {
    method: "GET",
    path: "/images",
    operation: "listImages",
    summary: "Images by reference, of all runtimes that have a store",
    query: ImagesQuery,
    status: 200,
    response: z.array(ImageInfo),
    errors: store,
  },
  {
    method: "DELETE",
    path: "/images",
    operation: "removeImage",
    summary: "Removes an image that no sandbox is made of",
    query: ImageQuery,
    status: 204,
    response: "nothing",
    errors: [...store, "image_not_found", "image_invalid", "in_use"],
  },
  {
    method: "GET",
    path: "/images/inspect",
    operation: "getImage",
    summary: "One image; no registry is asked",
    query: ImageQuery,
    status: 200,
    response: ImageInfo,
    errors: [...store, "image_not_found", "image_invalid"],
  },
  {
    method: "POST",
    path: "/images/pull",
    operation: "pullImage",
    summary: "Fetches an image, with its progress as server-sent events; given up when the client goes away",
    request: PullImage,
    status: 200,
    response: "events",
    errors: [...store, "image_not_found", "image_invalid", "image_pull_failed", "no_space", "cancelled"],
  },
  {
    method: "POST",
    path: "/images/build",
    operation: "buildImage",
    summary: "Builds an image of the tar in the body, as a pull does; given up when the client goes away",
    query: BuildQuery,
    request: "bytes",
    status: 200,
    response: "events",
    errors: [...store, "image_invalid", "image_build_failed", "too_large", "no_space", "cancelled"],
  },
  {
    method: "GET",
    path: "/volumes",
    operation: "listVolumes",
    summary: "Volumes by name, of all runtimes that have any",
    query: VolumesQuery,
    status: 200,
    response: z.array(VolumeInfo),
    errors: store,
  },
  {
    method: "POST",
    path: "/volumes",
    operation: "createVolume",
    summary: "Creates a volume; one that exists is success and stays as it is",
    request: CreateVolume,
    status: 201,
    response: VolumeInfo,
    errors: [...store, "no_space"],
  },
  {
    method: "DELETE",
    path: "/volumes",
    operation: "removeVolume",
    summary: "Removes a volume with all that is in it",
    query: RemoveVolumeQuery,
    status: 204,
    response: "nothing",
    errors: [...store, "volume_not_found", "in_use"],
  },
  {
    method: "GET",
    path: "/volumes/inspect",
    operation: "getVolume",
    summary: "One volume",
    query: VolumeQuery,
    status: 200,
    response: VolumeInfo,
    errors: [...store, "volume_not_found"],
  },
  {
    method: "GET",
    path: "/volumes/usage",
    operation: "volumeUsage",
    summary: "What volumes take on disk",
    query: VolumesQuery,
    status: 200,
    response: z.array(VolumeUsage),
    errors: store,
  },
  {
    method: "POST",
    path: "/prune",
    operation: "prune",
    summary: "Removes the stopped sandboxes of a runtime",
    query: PruneQuery,
    status: 200,
    response: PruneResult,
    errors: ["unsupported"],
  },
  {
    method: "GET",
    path: "/stats",
    operation: "systemStats",
    summary: "Counts of sandboxes",
    status: 200,
    response: SystemStats,
    errors: [],
  },
] as const satisfies readonly Route[];

export type Operation = (typeof routes)[number]["operation"];
