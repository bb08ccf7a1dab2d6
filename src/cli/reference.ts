import type { Command } from "commander";
import { buildProgram, commands } from "./program.ts";

/** The help of every command as Markdown, for docs/cli.md. */
export async function commandReference(): Promise<string> {
  const listed = Object.keys(commands).filter((name) => !commands[name]?.hidden);
  const program = await buildProgram({ mainFile: "warren", args: ["--version"] }, listed);
  return all("warren", program)
    .map(([title, command]) => section(title, command))
    .join("\n");
}

/** The command and those below it, each with all its words. */
function all(title: string, command: Command): [string, Command][] {
  return [[title, command], ...command.commands.flatMap((sub) => all(`${title} ${sub.name()}`, sub))];
}

function section(title: string, command: Command): string {
  let help = "";
  command.configureHelp({ helpWidth: 100 }).configureOutput({
    writeOut: (text) => {
      help += text;
    },
    getOutHasColors: () => false,
  });
  command.outputHelp();
  return `## ${title}\n\n\`\`\`text\n${help.trimEnd()}\n\`\`\`\n`;
}
