import { WarrenError } from "../contracts/errors.ts";
import { createClient } from "./client.ts";
import { type SandboxHandle, sandboxEntry } from "./sandbox.ts";

export * from "./exports.ts";

/** Sandboxes of a server that the options name. */
export const Sandbox = sandboxEntry(({ client, url, apiKey }) => {
  if (client) return client;
  if (url === undefined) {
    throw new WarrenError("invalid_request", "no server was named", {
      hint: 'pass { url: "http://127.0.0.1:8080" } or { client }',
    });
  }
  return createClient({ url, ...(apiKey === undefined ? {} : { apiKey }) });
});
export type Sandbox = SandboxHandle;
