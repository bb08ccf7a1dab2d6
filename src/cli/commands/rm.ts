import type { Command } from "commander";
import type { SandboxApi } from "../../contracts/api.ts";
import { WarrenError } from "../../contracts/errors.ts";
import { forEachNamed } from "../each.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { UsageError } from "../report.ts";

interface RmOptions {
  all?: boolean;
  force?: boolean;
}

export function define(command: Command, context: CliContext): void {
  command
    .argument("[id...]", "ids, starts of ids, or names; running ones are ended")
    .option("-a, --all", "every sandbox")
    .option("-f, --force", "a sandbox that does not exist is success");
  addGlobalOptions(command).action(async (ids: string[], options: RmOptions) => {
    if (options.all ? ids.length > 0 : ids.length === 0) {
      throw new UsageError("give the sandboxes to remove, or --all and none", "warren ls shows them");
    }
    const api = await connectApi(command, context);
    const all = options.all ? (await api.list()).map((sandbox) => sandbox.id) : ids;
    // Between our list and our call, one may have expired.
    const missingOk = options.force || options.all;
    await forEachNamed(all, (id) => remove(api, id, missingOk));
  });
}

async function remove(api: SandboxApi, id: string, missingOk = false): Promise<string> {
  try {
    await api.remove(id);
  } catch (error) {
    if (!(missingOk && error instanceof WarrenError && error.code === "sandbox_not_found")) {
      throw error;
    }
  }
  return id;
}
