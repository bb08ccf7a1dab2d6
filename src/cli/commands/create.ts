import type { Command } from "commander";
import { addCreateOptions, type CreateOptions, createRequest } from "../create-options.ts";
import { addGlobalOptions, type CliContext, connectApi, isLocal } from "../globals.ts";
import { print } from "../output.ts";
import { json, safe } from "../render.ts";
import { UsageError } from "../report.ts";

export function define(command: Command, context: CliContext): void {
  command.argument(
    "[cmd...]",
    "main command, after `--`; the sandbox stops when it ends (default: idle until stopped)",
  );
  addCreateOptions(command).option("--json", "print the sandbox as JSON");
  addGlobalOptions(command).action(async (cmd: string[], options: CreateOptions & { json?: boolean }) => {
    const request = {
      ...createRequest(options, isLocal(command)),
      ...(cmd.length > 0 ? { cmd: mainCommand(cmd, context.args) } : {}),
    };
    const api = await connectApi(command, context);
    const sandbox = await api.create(request);
    await print(options.json ? json(sandbox) : safe(sandbox.id));
  });
}

/** `warren create debian:12` means an image, not a command of that name: commands come after `--`. */
function mainCommand(cmd: string[], args: readonly string[]): string[] {
  const separator = args.indexOf("--");
  if (separator < 0 || args.length - separator - 1 !== cmd.length) {
    throw new UsageError(
      `${JSON.stringify(cmd[0])} is neither an option nor behind \`--\``,
      "an image is --image IMAGE; a main command comes last, behind `--`",
    );
  }
  return cmd;
}
