import type { Command } from "commander";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { print } from "../output.ts";
import { json } from "../render.ts";

export function define(command: Command, context: CliContext): void {
  command.argument("<id>", "id, start of an id, or name").option("--json", "JSON; that is the only format");
  addGlobalOptions(command).action(async (id: string) => {
    const api = await connectApi(command, context);
    await print(json(await api.get(id)));
  });
}
