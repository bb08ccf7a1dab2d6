import type { Command } from "commander";
import { connectionNotice } from "../connection-notice.ts";
import { exitCode, runAttached, terminalType } from "../exec-session.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { sayBlocked } from "../network-report.ts";
import { collect, parseEnvironment, readEnvFile, seconds } from "../options.ts";

interface ExecOptions {
  interactive?: boolean;
  tty?: boolean;
  env?: string[];
  envFile?: string[];
  workdir?: string;
  user?: string;
  timeout?: string;
}

export function define(command: Command, context: CliContext): void {
  command
    .argument("<id>", "id, start of an id, or name")
    .argument("<cmd...>", "program and arguments; options behind the id are the program's own")
    .passThroughOptions()
    .option("-i, --interactive", "pass our stdin on; without it, stdin is empty")
    .option("-t, --tty", "give it a terminal")
    .option(
      "-e, --env <NAME=value>",
      "environment variable; NAME alone passes on yours (repeatable)",
      collect,
    )
    .option("--env-file <file>", "file with a NAME=value on each line (repeatable)", collect)
    .option("-w, --workdir <path>", "working directory")
    .option("-u, --user <user>", "user: name, uid or uid:gid")
    .option("--timeout <duration>", "time until it is killed with all that it started; the exit code is 124")
    .addHelpText(
      "after",
      "\nThe exit code is the command's: 128+n when signal n ended it, 124 after a timeout, 126 or 127 when it\n" +
        "can't be run. 125 is a failure of Warren itself.",
    );
  addGlobalOptions(command).action(async (id: string, words: string[], options: ExecOptions) => {
    // Behind the id commander leaves `--` where it is.
    const cmd = words[0] === "--" ? words.slice(1) : words;
    const entries = [...(options.envFile ?? []).flatMap(readEnvFile), ...(options.env ?? [])];
    const timeout = options.timeout === undefined ? undefined : seconds(options.timeout);
    const tty = options.tty ?? false;
    const interactive = options.interactive ?? false;
    const env = { ...terminalType(tty), ...parseEnvironment(entries) };
    const onConnection = connectionNotice();
    const api = await connectApi(command, context, {
      ...(onConnection ? { onConnection } : {}),
      unasked: true,
    });
    const startedAt = Date.now();
    const exit = await runAttached(
      api,
      id,
      {
        cmd,
        binary: true,
        ...(interactive ? { stdin: true } : {}),
        ...(tty ? { tty: true } : {}),
        ...(Object.keys(env).length === 0 ? {} : { env }),
        ...(options.workdir === undefined ? {} : { workdir: options.workdir }),
        ...(options.user === undefined ? {} : { user: options.user }),
        ...(timeout === undefined ? {} : { timeout }),
      },
      { interactive, tty },
    );
    if (exit.denied) await sayBlocked(api, id, { since: startedAt });
    process.exitCode = await exitCode(exit, options.timeout);
  });
}
