import { WarrenError } from "../../contracts/errors.ts";
import { ExecRequest } from "../../contracts/exec.ts";
import type { Handler } from "./handler.ts";

export const execHandlers = {
  async exec({ api, id, json, signal }) {
    return await api.exec(id, await json(ExecRequest), { signal });
  },
  /** Reached only by requests that ask for no upgrade: the others go to `ExecStreams`. */
  async execStream() {
    throw new WarrenError("invalid_request", "this route needs a WebSocket upgrade");
  },
} satisfies Record<string, Handler>;
