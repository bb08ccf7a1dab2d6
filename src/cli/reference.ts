import type { Command } from "commander";
import { buildProgram, commands } from "./program.ts";

/** The help of every command as Markdown, for docs/cli.md. */
export async function commandReference(): Promise<string> {
  const program = await buildProgram({ mainFile: "warren", args: [] }, Object.keys(commands));
  const all: [string, Command][] = [
    ["warren", program],
    ...program.commands.map((command): [string, Command] => [`warren ${command.name()}`, command]),
  ];
  return all.map(([title, command]) => section(title, command)).join("\n");
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
