import { Command, CommanderError } from "commander";
import { buildInfo } from "../lib/build-info.ts";
import { addGlobalOptions, type CliContext, globalFlags } from "./globals.ts";
import { writeFully } from "./output.ts";
import { EXIT_FAILURE, EXIT_USAGE, report, UsageError } from "./report.ts";

/** Adds a command's arguments, options and action. */
type Define = (command: Command, context: CliContext) => void;

interface CommandEntry {
  summary: string;
  /** Not for people: not listed. */
  hidden?: true;
  load(): Promise<{ define: Define }>;
  /** Exit code of Warren's own failures; default 1. */
  failureCode?: number;
  /** What only the bundle with the engine has: the engine, its runtimes, and what reads the context of a build. */
  needsEngineCode?(args: readonly string[]): boolean;
}

/** As docker does, so that it can't be taken for an exit code of the command that was run. */
const EXIT_RUN_FAILURE = 125;

/** Every command. Only the one that runs is loaded. */
export const commands: Record<string, CommandEntry> = {
  serve: {
    summary: "serve the REST API over TCP",
    load: () => import("./commands/serve.ts"),
    needsEngineCode: () => true,
  },
  run: {
    summary: "run a command in a sandbox of its own, and remove that when it has ended",
    load: () => import("./commands/run.ts"),
    failureCode: EXIT_RUN_FAILURE,
  },
  create: { summary: "create a sandbox and print its id", load: () => import("./commands/create.ts") },
  ls: { summary: "list sandboxes", load: () => import("./commands/ls.ts") },
  inspect: {
    summary: "print all that is known of a sandbox, as JSON",
    load: () => import("./commands/inspect.ts"),
  },
  exec: {
    summary: "run a command in a sandbox",
    load: () => import("./commands/exec.ts"),
    failureCode: EXIT_RUN_FAILURE,
  },
  "exec-end": {
    summary: "say how a command ended that the front ran",
    hidden: true,
    load: () => import("./commands/exec-end.ts"),
    failureCode: EXIT_RUN_FAILURE,
  },
  start: { summary: "start stopped sandboxes", load: () => import("./commands/start.ts") },
  stop: { summary: "stop sandboxes; their files stay", load: () => import("./commands/stop.ts") },
  kill: {
    summary: "stop sandboxes at once, without SIGTERM; their files stay",
    load: () => import("./commands/kill.ts"),
  },
  logs: {
    summary: "print the output of a sandbox's main command",
    load: () => import("./commands/logs.ts"),
  },
  wait: {
    summary: "wait until a sandbox has stopped, and print its exit code",
    load: () => import("./commands/wait.ts"),
  },
  pause: { summary: "freeze sandboxes where they are", load: () => import("./commands/pause.ts") },
  resume: { summary: "let paused sandboxes go on", load: () => import("./commands/resume.ts") },
  update: { summary: "change a sandbox's limits", load: () => import("./commands/update.ts") },
  extend: { summary: "move a sandbox's expiry", load: () => import("./commands/extend.ts") },
  rm: { summary: "remove sandboxes with everything in them", load: () => import("./commands/rm.ts") },
  cp: { summary: "copy files into a sandbox or out of it", load: () => import("./commands/cp.ts") },
  prune: { summary: "remove stopped sandboxes", load: () => import("./commands/prune.ts") },
  image: {
    summary: "pull, build, list, inspect and remove images",
    load: () => import("./commands/image.ts"),
    needsEngineCode: (args) => args.includes("build"),
  },
  snapshot: {
    summary: "take, list and remove snapshots of sandboxes, and restore them",
    load: () => import("./commands/snapshot.ts"),
  },
  volume: {
    summary: "create, list and remove volumes, and see what they take",
    load: () => import("./commands/volume.ts"),
  },
  port: {
    summary: "publish ports of a sandbox on this machine",
    load: () => import("./commands/port.ts"),
  },
  network: {
    summary: "see and change what a sandbox may reach, and what it has asked for",
    load: () => import("./commands/network.ts"),
  },
  credentials: {
    summary: "give a sandbox cloud credentials, list them and take them back",
    load: () => import("./commands/credentials.ts"),
  },
  secret: {
    summary: "give a sandbox secrets that stay outside, list them and take them back",
    load: () => import("./commands/secret.ts"),
  },
  preview: {
    summary: "print a link to an HTTP server in a sandbox",
    load: () => import("./commands/preview.ts"),
  },
  stats: { summary: "show what sandboxes use", load: () => import("./commands/stats.ts") },
  doctor: {
    summary: "check what this machine can do",
    load: () => import("./commands/doctor.ts"),
    needsEngineCode: () => true,
  },
  version: { summary: "print the versions of CLI and engine", load: () => import("./commands/version.ts") },
};

/** Runs a command line and returns its exit code. */
export async function runCli(context: CliContext): Promise<number> {
  const { args } = context;
  const name = commandName(args);
  const failureCode = commands[name ?? ""]?.failureCode ?? EXIT_FAILURE;
  const fatal = (error: unknown) => {
    void report(error, failureCode).then((code) => process.exit(code));
  };
  process.on("uncaughtException", fatal).on("unhandledRejection", fatal);
  const output = { out: "", err: "" };
  let program: Command | undefined;
  try {
    program = await buildProgram(context, name === undefined ? "listed" : [name]);
    captureOutput(program, output);
    if (args.length === 0) {
      await writeFully(2, program.helpInformation());
      return EXIT_USAGE;
    }
    await program.parseAsync(args, { from: "user" });
    return Number(process.exitCode ?? 0);
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) {
      return await writeFully(1, output.out).then(
        () => 0,
        (failure) => report(failure, failureCode),
      );
    }
    if (error instanceof CommanderError && error.code === "commander.help") {
      // A command that only has subcommands, and none was given.
      await writeFully(2, output.err);
      return EXIT_USAGE;
    }
    return report(
      error instanceof CommanderError ? usageError(error, commandWords(program, name, args)) : error,
      failureCode,
    );
  }
}

/** The program with these commands and no others, or with all by name and summary. */
export async function buildProgram(
  context: CliContext,
  wanted: readonly string[] | "listed",
): Promise<Command> {
  const program = addGlobalOptions(new Command("warren"))
    .description("Sandboxes for AI agents, and for the code they write, on your own machine.")
    .enablePositionalOptions()
    .showSuggestionAfterError()
    .exitOverride();
  // Read from disk, and so only where it may be asked for.
  if (wanted === "listed" || context.args.includes("--version")) {
    program.version(`warren ${buildInfo().version}`, "--version", "print the version of the CLI");
  }
  for (const [name, { summary, hidden = false, load }] of Object.entries(commands)) {
    if (wanted !== "listed" && !wanted.includes(name)) continue;
    const command = program.command(name, { hidden }).description(summary);
    if (wanted === "listed") continue;
    const { define } = await load();
    define(command, context);
  }
  return program;
}

/** The first word that is neither an option nor a global option's value; for `help x`, x. */
export function commandName(args: readonly string[]): string | undefined {
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] ?? "";
    if ((globalFlags as readonly string[]).includes(arg)) {
      i++;
    } else if (arg !== "help" && !arg.startsWith("-")) {
      return Object.hasOwn(commands, arg) ? arg : undefined;
    }
  }
  return undefined;
}

/** Help is written by us, so that a closed pipe is handled in one place; errors are printed by the funnel. */
function captureOutput(program: Command, output: { out: string; err: string }): void {
  const streams = {
    writeOut: (text: string) => {
      output.out += text;
    },
    writeErr: (text: string) => {
      output.err += text;
    },
  };
  const capture = (command: Command) => {
    command.configureOutput(streams);
    command.commands.forEach(capture);
  };
  capture(program);
}

/** `network allow`: the command with its subcommand, where one was named. */
function commandWords(
  program: Command | undefined,
  name: string | undefined,
  args: readonly string[],
): string | undefined {
  if (name === undefined) return undefined;
  const next = args[args.indexOf(name) + 1];
  const command = program?.commands.find((one) => one.name() === name);
  return command?.commands.some((one) => one.name() === next) ? `${name} ${next}` : name;
}

function usageError(error: CommanderError, name: string | undefined): UsageError {
  return new UsageError(
    error.message.replace(/^error: /, ""),
    name === undefined ? "warren --help lists the commands" : `warren ${name} --help lists its options`,
  );
}
