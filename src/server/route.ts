import type { z } from "zod";
import type { ErrorCode } from "../contracts/errors.ts";

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
  response: z.ZodType | "bytes" | "events" | "websocket" | "tunnel" | "nothing";
  /** Failures of this route beside those that every route has. */
  errors: readonly ErrorCode[];
}

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
    "port_in_use",
    "permission_denied",
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
