import type { Command } from "commander";
import { WarrenError } from "../../contracts/errors.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { seconds } from "../options.ts";
import { print } from "../output.ts";
import { json } from "../render.ts";

export function define(command: Command, context: CliContext): void {
  command
    .argument("<id>", "id, start of an id, or name")
    .option("--timeout <duration>", "how long to wait (default: as long as it takes)")
    .option("--json", "print exit code and status as JSON")
    .addHelpText(
      "after",
      "\nPrints the exit code of the main command, or `unknown` where there is none or it was lost.",
    );
  addGlobalOptions(command).action(async (id: string, options: { timeout?: string; json?: boolean }) => {
    const timeoutS = options.timeout === undefined ? undefined : seconds(options.timeout);
    const api = await connectApi(command, context);
    const result = await api.wait(id, timeoutS === undefined ? {} : { timeoutS });
    if (result.status !== "stopped" && result.status !== "error") {
      throw new WarrenError("deadline_exceeded", `the sandbox is still ${result.status}`, {
        hint: "wait longer, or end it: warren stop",
      });
    }
    await print(options.json ? json(result) : String(result.exit_code ?? "unknown"));
  });
}
