import { commandName, commands, runCli } from "./program.ts";

const args = process.argv.slice(2);
const context = { mainFile: import.meta.filename, args };

async function main(): Promise<number> {
  const entry = commands[commandName(args) ?? ""];
  // Built, this file and the engine's are bundles of their own, so that short commands load nothing of the engine.
  const run = entry?.needsEngineCode?.(args) ? (await import("./with-engine.ts")).runCli : runCli;
  return run(context);
}

// An explicit exit: sockets that are kept alive, or a stdin that never ends, must not hold a finished command.
void main().then((code) => process.exit(code));
