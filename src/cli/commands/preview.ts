import type { Command } from "commander";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { expirySeconds } from "../options.ts";
import { print, say } from "../output.ts";
import { parsePort } from "../publish.ts";
import { json, safe } from "../render.ts";
import { UsageError } from "../report.ts";

const MOST_SECONDS = 30 * 24 * 3600;

interface PreviewOptions {
  expires: string;
  json?: boolean;
}

/** `warren preview`, and `warren port url`. */
export function define(command: Command, context: CliContext): void {
  command
    .argument("<id>", "id, start of an id, or name")
    .argument("<port>", "port that the server inside listens on, published or not")
    .option("--expires <duration>", "time that the link is good for, at most 30d", "1h")
    .option("--json", "print the link, its token and its expiry as JSON");
  addGlobalOptions(command).action(async (id: string, port: string, options: PreviewOptions) => {
    const { sandboxPort, protocol } = parsePort(port);
    if (protocol !== "tcp")
      throw new UsageError("HTTP is not spoken over UDP here", "name the port alone, such as 3000");
    const expires_in = expirySeconds(options.expires);
    if (expires_in < 1 || expires_in > MOST_SECONDS)
      throw new UsageError("a link is good for at most 30 days", "write --expires 30d, or less");
    const api = await connectApi(command, context);
    const link = await api.preview(id, sandboxPort, { expires_in });
    await print(options.json ? json(link) : safe(link.url));
    if (new URL(link.url).pathname !== "/") {
      await say(
        "note: by path a page shows without its styles, scripts and images; a server with --preview-domain has names for ports",
      );
    }
  });
}
