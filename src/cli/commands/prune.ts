import type { Command } from "commander";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { print, say } from "../output.ts";
import { json, safe } from "../render.ts";
import { EXIT_FAILURE } from "../report.ts";

export function define(command: Command, context: CliContext): void {
  command
    .option("--runtime <name>", "runtime whose sandboxes are meant (default: the engine's)")
    .option("--json", "print what was removed and what could not be, as JSON")
    .addHelpText(
      "after",
      "\nWhat runs, is paused, is being created or is in error stays. Volumes and images stay.",
    );
  addGlobalOptions(command).action(
    async ({ runtime, json: asJson }: { runtime?: string; json?: boolean }) => {
      const api = await connectApi(command, context);
      const { removed, failed } = await api.prune(runtime === undefined ? {} : { runtime });
      if (asJson) await print(json({ removed, failed }));
      else if (removed.length > 0) await print(removed.map(safe).join("\n"));
      for (const { id, error } of failed) await say(`error: ${safe(id)}: ${safe(error)}`);
      if (failed.length > 0) process.exitCode = EXIT_FAILURE;
    },
  );
}
