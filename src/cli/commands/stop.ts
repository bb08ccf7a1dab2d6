import type { Command } from "commander";
import { forEachNamed } from "../each.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { seconds } from "../options.ts";

export function define(command: Command, context: CliContext): void {
  command
    .argument("<id...>", "ids, starts of ids, or names")
    .option("-t, --time <duration>", "how long commands may take to end after SIGTERM (default: 2s)");
  addGlobalOptions(command).action(async (ids: string[], options: { time?: string }) => {
    const grace =
      options.time === undefined ? undefined : (seconds(options.time) ?? Number.POSITIVE_INFINITY);
    const request =
      grace === undefined ? {} : { timeoutMs: Math.min(Math.round(grace * 1000), LONGEST_GRACE_MS) };
    const api = await connectApi(command, context);
    await forEachNamed(ids, async (id) => (await api.stop(id, request)).id);
  });
}

/** An hour: what anybody can mean by `-t never`. */
const LONGEST_GRACE_MS = 3_600_000;
