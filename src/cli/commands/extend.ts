import type { Command } from "commander";
import { NO_EXPIRY } from "../../contracts/constants.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { expirySeconds } from "../options.ts";
import { print } from "../output.ts";
import { json, safe } from "../render.ts";

export function define(command: Command, context: CliContext): void {
  command
    .argument("<id>", "id, start of an id, or name")
    .argument("<duration>", "time from now until it expires, such as 30m or 2h, or `never`")
    .option("--json", "print the sandbox as JSON");
  addGlobalOptions(command).action(async (id: string, duration: string, options: { json?: boolean }) => {
    const timeout = expirySeconds(duration);
    const api = await connectApi(command, context);
    const sandbox = await api.extend(id, timeout);
    const expiry = sandbox.expires_at === NO_EXPIRY ? "never" : sandbox.expires_at;
    await print(options.json ? json(sandbox) : safe(expiry));
  });
}
