import type { IncomingMessage, ServerResponse } from "node:http";
import type { SandboxApi } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { Logger } from "../lib/log.ts";
import { readJson } from "./body.ts";
import { toWarrenError } from "./failure.ts";
import { credentialHandlers } from "./handlers/credentials.ts";
import { execHandlers } from "./handlers/exec.ts";
import { fileHandlers } from "./handlers/files.ts";
import { type Call, type Handler, isReply, type Limits, sent } from "./handlers/handler.ts";
import { imageHandlers } from "./handlers/images.ts";
import { logHandlers } from "./handlers/logs.ts";
import { portHandlers } from "./handlers/ports.ts";
import { sandboxHandlers } from "./handlers/sandboxes.ts";
import { secretHandlers } from "./handlers/secrets.ts";
import { snapshotHandlers } from "./handlers/snapshots.ts";
import { volumeHandlers } from "./handlers/volumes.ts";
import { breakOff } from "./outgoing.ts";
import { parseQuery } from "./query.ts";
import { PREFIX, type Route } from "./route.ts";
import { createRouter, type Match } from "./router.ts";
import { type Operation, routes } from "./routes.ts";
import { sendError } from "./send-error.ts";

export interface AppOptions {
  api: SandboxApi;
  limits: Limits;
  log: Logger;
}

/** Who has sent a request, and what it may. */
export type From = Pick<Call, "by" | "rights" | "linkTo">;

/** Answers one request, whatever becomes of it. */
export type App = (incoming: IncomingMessage, outgoing: ServerResponse, from: From) => Promise<void>;

const handlers: Record<Operation, Handler> = {
  ...sandboxHandlers,
  ...execHandlers,
  ...fileHandlers,
  ...logHandlers,
  ...portHandlers,
  ...secretHandlers,
  ...credentialHandlers,
  ...imageHandlers,
  ...snapshotHandlers,
  ...volumeHandlers,
};

/** The routes of the table, and JSON answers for everything else. */
export function buildApp(options: AppOptions): App {
  const find = createRouter(routes, PREFIX);

  async function dispatch(incoming: IncomingMessage, outgoing: ServerResponse, from: From): Promise<void> {
    const match = find(incoming.url ?? "");
    if (!match) throw new WarrenError("route_not_found", "no such route");
    const { method = "" } = incoming;
    const route = match.routes.get(method === "HEAD" ? "GET" : method);
    if (route)
      return await answer(incoming, outgoing, route, { ...options, parameters: match.parameters, ...from });
    outgoing.setHeader("allow", [...match.routes.keys()].join(", "));
    throw new WarrenError("method_not_allowed", `${method} is not allowed here`);
  }

  return (incoming, outgoing, from) =>
    dispatch(incoming, outgoing, from).catch((cause: unknown) => {
      const error = toWarrenError(cause, options.log);
      // What has begun as a success can only be broken off.
      if (outgoing.headersSent) breakOff(outgoing);
      else sendError(incoming, outgoing, error);
    });
}

async function answer(
  incoming: IncomingMessage,
  outgoing: ServerResponse,
  route: Route & { operation: Operation },
  { parameters, rights, by, linkTo, api, limits, log }: AppOptions & Pick<Match<Route>, "parameters"> & From,
): Promise<void> {
  let signal: AbortSignal | undefined;
  const call: Call = {
    api,
    id: parameters.id ?? "",
    parameter: (name) => parameters[name] ?? "",
    rights,
    by,
    linkTo,
    get signal() {
      signal ??= departure(incoming, outgoing);
      return signal;
    },
    incoming,
    outgoing,
    limits,
    log,
    query: (schema) => parseQuery(schema, incoming.url ?? ""),
    json: (schema) => readJson(incoming, schema, limits.maxJsonBytes),
    jsonOrNothing: (schema) => readJson(incoming, schema, limits.maxJsonBytes, { orNothing: true }),
  };
  const result = await handlers[route.operation](call);
  if (result === sent) return;
  if (isReply(result)) sendJson(incoming, outgoing, result.status, result.body);
  else if (route.response === "nothing") outgoing.writeHead(route.status).end();
  else sendJson(incoming, outgoing, route.status, result);
}

function sendJson(incoming: IncomingMessage, outgoing: ServerResponse, status: number, value: unknown): void {
  const body = JSON.stringify(value);
  outgoing.writeHead(status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
  });
  if (incoming.method === "HEAD") outgoing.end();
  else outgoing.end(body);
}

/** Fires when the client goes away before it has its answer. */
function departure(incoming: IncomingMessage, outgoing: ServerResponse): AbortSignal {
  const controller = new AbortController();
  outgoing.once("close", () => {
    // Over HTTP/2 a request that is reset may count as answered in full.
    if (!outgoing.writableFinished || incoming.aborted) controller.abort();
  });
  return controller.signal;
}
