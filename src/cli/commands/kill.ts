import type { Command } from "commander";
import { forEachNamed } from "../each.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";

export function define(command: Command, context: CliContext): void {
  command.argument("<id...>", "ids, starts of ids, or names");
  addGlobalOptions(command).action(async (ids: string[]) => {
    const api = await connectApi(command, context);
    await forEachNamed(ids, async (id) => (await api.stop(id, { timeoutMs: 0 })).id);
  });
}
