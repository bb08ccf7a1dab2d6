import type { Command } from "commander";
import { credentialKinds } from "../../contracts/constants.ts";
import { parseCredentials } from "../credentials.ts";
import { forEachNamed } from "../each.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { print } from "../output.ts";
import { json, safe, table } from "../render.ts";
import { UsageError } from "../report.ts";

export function define(command: Command, context: CliContext): void {
  command.helpCommand(false);
  defineSet(command, context);
  defineLs(command, context);
  defineRm(command, context);
}

function defineSet(parent: Command, context: CliContext): void {
  const command = parent
    .command("set")
    .description(
      "give a sandbox cloud credentials, in the place of those of the kind, for the next one who asks",
    )
    .argument("<id>", "id, start of an id, or name")
    .argument("<credentials...>", "aws=… or gcp=…, as for `warren create --credentials`")
    .option("--json", "print the sandbox as JSON")
    .addHelpText(
      "after",
      "\nCommands that start from now on are told where to ask. `warren run --credentials …=cmd:…` renews them by itself.",
    );
  addGlobalOptions(command).action(async (id: string, texts: string[], options: { json?: boolean }) => {
    const given = parseCredentials(texts);
    const api = await connectApi(command, context);
    for (const { kind, value } of given) {
      const sandbox = await api.credentials.put(id, kind, value);
      await print(options.json ? json(sandbox) : kind);
    }
  });
}

function defineLs(parent: Command, context: CliContext): void {
  const command = parent
    .command("ls")
    .description("list a sandbox's cloud credentials: their kinds, and when they end")
    .argument("<id>", "id, start of an id, or name")
    .option("--json", "print a JSON array");
  addGlobalOptions(command).action(async (id: string, options: { json?: boolean }) => {
    const api = await connectApi(command, context);
    const credentials = await api.credentials.list(id);
    const rows = credentials.map(({ kind, expires_at = "–", project = "–", account = "–" }) => [
      kind,
      safe(expires_at),
      safe(project),
      safe(account),
    ]);
    await print(options.json ? json(credentials) : table(["KIND", "UNTIL", "PROJECT", "ACCOUNT"], rows));
  });
}

function defineRm(parent: Command, context: CliContext): void {
  const command = parent
    .command("rm")
    .description("take cloud credentials from a sandbox")
    .argument("<id>", "id, start of an id, or name")
    .argument("<kind...>", "aws, gcp");
  addGlobalOptions(command).action(async (id: string, kinds: string[]) => {
    const api = await connectApi(command, context);
    await forEachNamed(kinds, async (text) => {
      const kind = credentialKinds.find((one) => one === text);
      if (!kind)
        throw new UsageError(`there are no credentials ${JSON.stringify(text)}`, credentialKinds.join(", "));
      await api.credentials.remove(id, kind);
      return kind;
    });
  });
}
