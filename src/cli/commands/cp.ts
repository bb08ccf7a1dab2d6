import type { Command } from "commander";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { say } from "../output.ts";
import { safe } from "../render.ts";
import { EXIT_FAILURE, UsageError } from "../report.ts";

export function define(command: Command, context: CliContext): void {
  command
    .argument("<source>", "local path, ID:/path, or - for stdin")
    .argument("<destination>", "local path, ID:/path, or - for stdout")
    .addHelpText(
      "after",
      "\nOne side is in a sandbox. Directories are copied with everything in them; a directory goes into one that\n" +
        "exists, as with `cp -r`, and `dir/.` means what is in it. Modes are kept, owners are not. What can't be\n" +
        "copied (devices, sockets, links that lead out of the copy) is named on stderr, and the exit code is 1.",
    );
  addGlobalOptions(command).action(async (from: string, to: string) => {
    const { parseLocation } = await import("../copy/location.ts");
    const source = parseLocation(from);
    const destination = parseLocation(to);
    const warnings: Promise<void>[] = [];
    const warn = (message: string) => {
      warnings.push(say(`warning: ${safe(message)}`));
      process.exitCode = EXIT_FAILURE;
    };
    if (source.kind === "sandbox" && destination.kind !== "sandbox") {
      const remote = { api: await connectApi(command, context), id: source.id, warn };
      const { download, downloadToStdout } = await import("../copy/download.ts");
      await (destination.kind === "stream"
        ? downloadToStdout(remote, source.path)
        : download(remote, source.path, destination.path));
    } else if (destination.kind === "sandbox" && source.kind !== "sandbox") {
      const remote = { api: await connectApi(command, context), id: destination.id, warn };
      const { upload, uploadStdin } = await import("../copy/upload.ts");
      await (source.kind === "stream"
        ? uploadStdin(remote, destination.path)
        : upload(remote, source.path, destination.path));
    } else {
      throw new UsageError(
        "exactly one side of cp is in a sandbox",
        "write it as ID:/path; between two sandboxes, copy to this machine first",
      );
    }
    await Promise.all(warnings);
  });
}
