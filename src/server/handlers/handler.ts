import type { IncomingMessage, ServerResponse } from "node:http";
import type { z } from "zod";
import type { Caller, SandboxApi } from "../../contracts/api.ts";
import type { PreviewLink } from "../../contracts/ports.ts";
import type { Logger } from "../../lib/log.ts";

/** Limits on what a client may send, in bytes. */
export interface Limits {
  maxJsonBytes: number;
  maxUploadBytes: number;
}

/** What this client may have of the engine's machine. */
export interface Rights {
  /** Directories of it may be mounted in sandboxes. */
  mayBind: boolean;
  /** Sandboxes may have its network. */
  mayHaveHostNetwork: boolean;
  /** Sandboxes may use SSH agents of it. */
  mayUseSshAgent: boolean;
  /** @throws WarrenError `forbidden` unless a port may be published on this address of it */
  checkPublish(address: string): void;
}

/** Which port a preview link is to lead to, and for how long. */
export interface LinkTo {
  id: string;
  port: number;
  seconds: number;
}

/** One request, as a handler sees it. */
export interface Call {
  api: SandboxApi;
  /** Path parameter; empty where the route has none. */
  id: string;
  /** Another parameter of the path; empty where the route has none of that name. */
  parameter(name: string): string;
  rights: Rights;
  by: Caller;
  linkTo(wanted: LinkTo): Promise<PreviewLink>;
  /** Fires when the client goes away or the server closes. */
  signal: AbortSignal;
  incoming: IncomingMessage;
  outgoing: ServerResponse;
  limits: Limits;
  log: Logger;
  /** Query parameters as the schema says. */
  query<S extends z.ZodType>(schema: S): z.output<S>;
  /** JSON body as the schema says. */
  json<S extends z.ZodType>(schema: S): Promise<z.output<S>>;
  /** As `json`, and no body is an empty object. */
  jsonOrNothing<S extends z.ZodType>(schema: S): Promise<z.output<S>>;
}

/** The handler has written the response itself. */
export const sent = Symbol("sent");

/** A response with a status other than the route's. */
export interface Reply {
  status: number;
  body: unknown;
}

/** Parses, calls one `SandboxApi` method, encodes. What it returns becomes the JSON body under the route's status. */
export type Handler = (call: Call) => Promise<unknown>;

/** Options with what is undefined left out. */
export function present<T>(options: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as T;
}

const replies = new WeakSet<object>();

export function reply(status: number, body: unknown): Reply {
  const made = { status, body };
  replies.add(made);
  return made;
}

export function isReply(value: unknown): value is Reply {
  return typeof value === "object" && value !== null && replies.has(value);
}
