import type { Command } from "commander";
import { NO_EXPIRY } from "../../contracts/constants.ts";
import type { SandboxInfo } from "../../contracts/sandbox.ts";
import { formatDuration } from "../../lib/units.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { collect, parseLabels } from "../options.ts";
import { print } from "../output.ts";
import { age, json, safe, shortIds, table } from "../render.ts";

interface LsOptions {
  quiet?: boolean;
  json?: boolean;
  label?: string[];
}

export function define(command: Command, context: CliContext): void {
  command
    .option("-a, --all", "stopped ones as well; that is what ls shows anyway")
    .option("-q, --quiet", "only ids, in full")
    .option("-l, --label <key=value>", "only sandboxes with this label (repeatable)", collect)
    .option("--json", "print a JSON array");
  addGlobalOptions(command).action(async (options: LsOptions) => {
    const labels = parseLabels(options.label ?? []);
    const api = await connectApi(command, context);
    const sandboxes = await api.list(options.label ? { labels } : undefined);
    if (options.json) {
      await print(json(sandboxes));
    } else if (!options.quiet) {
      await print(sandboxTable(sandboxes, Date.now()));
    } else if (sandboxes.length > 0) {
      await print(sandboxes.map((sandbox) => safe(sandbox.id)).join("\n"));
    }
  });
}

function sandboxTable(sandboxes: readonly SandboxInfo[], now: number): string {
  const ids = shortIds(sandboxes.map((sandbox) => sandbox.id));
  return table(
    ["ID", "NAME", "IMAGE", "STATUS", "AGE", "EXPIRES"],
    sandboxes.map((sandbox, i) => [
      ids[i] ?? sandbox.id,
      sandbox.name ?? "",
      sandbox.image,
      status(sandbox),
      age(sandbox.created_at, now),
      expiry(sandbox.expires_at, now),
    ]),
  );
}

function status(sandbox: SandboxInfo): string {
  if (sandbox.oom_killed) {
    return `${sandbox.status} (out of memory)`;
  }
  return sandbox.exit_code === undefined ? sandbox.status : `${sandbox.status} (${sandbox.exit_code})`;
}

function expiry(timestamp: string, now: number): string {
  const at = Date.parse(timestamp);
  return timestamp === NO_EXPIRY || Number.isNaN(at) ? "never" : `in ${formatDuration((at - now) / 1000)}`;
}
