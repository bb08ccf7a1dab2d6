import type { HttpBindings } from "@hono/node-server";
import { RESPONSE_ALREADY_SENT } from "@hono/node-server/utils/response";
import { type Context, Hono } from "hono";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import type { SandboxApi } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { Logger } from "../lib/log.ts";
import { readJson } from "./body.ts";
import { toWarrenError } from "./failure.ts";
import { execHandlers } from "./handlers/exec.ts";
import { fileHandlers } from "./handlers/files.ts";
import { type Call, type Handler, isReply, type Limits, sent } from "./handlers/handler.ts";
import { logHandlers } from "./handlers/logs.ts";
import { sandboxHandlers } from "./handlers/sandboxes.ts";
import { breakOff } from "./outgoing.ts";
import { parseQuery } from "./query.ts";
import { type Operation, PREFIX, type Route, routes } from "./routes.ts";
import { sendError } from "./send-error.ts";

export interface AppOptions {
  api: SandboxApi;
  limits: Limits;
  log: Logger;
}

type Env = { Bindings: HttpBindings };

const handlers: Record<Operation, Handler> = {
  ...sandboxHandlers,
  ...execHandlers,
  ...fileHandlers,
  ...logHandlers,
};

/** The routes of the table, and JSON answers for everything else. */
export function buildApp(options: AppOptions): Hono<Env> {
  const app = new Hono<Env>();
  for (const route of routes) {
    app.on(route.method, PREFIX + route.path, (c) => answer(c, route, handlers[route.operation], options));
  }
  for (const [path, methods] of methodsByPath()) {
    const allow = methods.join(", ");
    app.all(PREFIX + path, (c) => {
      c.env.outgoing.setHeader("allow", allow);
      return failure(
        c,
        new WarrenError("method_not_allowed", `${c.req.method} is not allowed here`),
        options,
      );
    });
  }
  app.notFound((c) => failure(c, new WarrenError("route_not_found", "no such route"), options));
  app.onError((error, c) => failure(c, error, options));
  return app;
}

async function answer(
  c: Context<Env>,
  route: Route,
  handler: Handler,
  { api, limits, log }: AppOptions,
): Promise<Response> {
  const { incoming, outgoing } = c.env;
  const call: Call = {
    api,
    id: c.req.param("id") ?? "",
    signal: c.req.raw.signal,
    incoming,
    outgoing,
    limits,
    log,
    query: (schema) => parseQuery(schema, incoming.url ?? ""),
    json: (schema) => readJson(incoming, schema, limits.maxJsonBytes),
  };
  const result = await handler(call);
  if (result === sent) return RESPONSE_ALREADY_SENT;
  if (isReply(result)) return c.json(result.body, result.status as ContentfulStatusCode);
  if (route.response === "nothing") return c.body(null, route.status as 204);
  return c.json(result, route.status as ContentfulStatusCode);
}

function failure(c: Context<Env>, cause: unknown, { log }: AppOptions): Response {
  const error = toWarrenError(cause, log);
  const { incoming, outgoing } = c.env;
  // What has begun as a success can only be broken off.
  if (outgoing.headersSent) breakOff(outgoing);
  else sendError(incoming, outgoing, error);
  return RESPONSE_ALREADY_SENT;
}

function methodsByPath(): Map<string, string[]> {
  const methods = new Map<string, string[]>();
  for (const { method, path } of routes) methods.set(path, [...(methods.get(path) ?? []), method]);
  return methods;
}
