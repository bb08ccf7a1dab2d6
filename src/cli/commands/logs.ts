import type { Command } from "commander";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { seconds, wholeNumber } from "../options.ts";
import { say, writeFully } from "../output.ts";
import { EXIT_FAILURE } from "../report.ts";

interface LogsOptions {
  tail?: string;
  follow?: boolean;
  until?: string;
  timeout?: string;
  timestamps?: boolean;
}

const descriptors = { stdout: 1, stderr: 2 } as const;

export function define(command: Command, context: CliContext): void {
  command
    .argument("<id>", "id, start of an id, or name")
    .option("-n, --tail <lines>", "only the last so many lines (default: all that are kept)")
    .option("-f, --follow", "go on until the sandbox ends")
    .option("--until <text>", "follow until this text has come; the exit code is 1 when it does not")
    .option("--timeout <duration>", "how long to follow (default: as long as it takes)")
    .option("--timestamps", "begin each line with the time when it came")
    .addHelpText("after", "\nIts stdout is written to stdout and its stderr to stderr, as they came.");
  addGlobalOptions(command).action(async (id: string, options: LogsOptions) => {
    const { tail, follow, until, timeout, timestamps } = options;
    const timeoutS = timeout === undefined ? undefined : seconds(timeout);
    const api = await connectApi(command, context);
    const log = api.logs(id, {
      ...(tail === undefined ? {} : { tail: wholeNumber(tail) }),
      ...(follow ? { follow } : {}),
      ...(until === undefined ? {} : { until }),
      ...(timeoutS === undefined ? {} : { timeoutS }),
    });
    const stamps = { stdout: createStamper(), stderr: createStamper() };
    for await (const { stream, data, at } of log) {
      await writeFully(descriptors[stream], timestamps ? stamps[stream](data, at) : data);
    }
    const end = await log.end;
    if (until !== undefined && end !== "marker") {
      await say(end === "timeout" ? "the text did not come in time" : "the log ended before the text came");
      process.exitCode = EXIT_FAILURE;
    }
  });
}

const NEWLINE = 0x0a;

/** Puts the time before each line that begins in the data. */
function createStamper(): (data: Uint8Array, at: string) => Uint8Array {
  let isNewLine = true;
  return (data, at) => {
    const stamp = Buffer.from(`${at} `);
    const parts: Uint8Array[] = [];
    for (let from = 0; from < data.length; ) {
      const newline = data.indexOf(NEWLINE, from);
      const to = newline < 0 ? data.length : newline + 1;
      if (isNewLine) parts.push(stamp);
      parts.push(data.subarray(from, to));
      isNewLine = newline >= 0;
      from = to;
    }
    return Buffer.concat(parts);
  };
}
