import type { Command } from "commander";
import { engineSocket } from "../../app/state-dir.ts";
import { parseExit } from "../../client/exec-session.ts";
import { errorOfFrame, parseObject } from "../../client/failures.ts";
import { WarrenError } from "../../contracts/errors.ts";
import { exitCode } from "../exec-session.ts";
import {
  addGlobalOptions,
  type CliContext,
  connectApi,
  type GlobalOptions,
  resolveTarget,
} from "../globals.ts";
import { sayBlocked } from "../network-report.ts";

/** What the front (native/front) leaves to us: it runs a command by itself, and has no words. */
export function define(command: Command, context: CliContext): void {
  command
    .argument("<id>", "the sandbox")
    .argument("<frame>", "the server's last frame; empty: the connection was lost")
    .requiredOption("--since <ms>", "when the command was started, of the Unix epoch", Number);
  addGlobalOptions(command).action(async (id: string, frame: string, { since }: { since: number }) => {
    if (frame === "") {
      const { stateDir } = resolveTarget(command.optsWithGlobals<GlobalOptions>());
      const where = `unix:${engineSocket(stateDir)}`;
      throw new WarrenError(
        "engine_unavailable",
        `the connection to ${where} was lost while the command ran`,
      );
    }
    const end = parseObject(frame);
    if (end.type !== "exit") throw errorOfFrame(end);
    const exit = parseExit(end);
    if (exit.denied) {
      await sayBlocked(await connectApi(command, context, { unasked: true }), id, { since });
    }
    process.exitCode = await exitCode(exit, undefined);
  });
}
