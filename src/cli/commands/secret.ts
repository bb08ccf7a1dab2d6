import type { Command } from "commander";
import type { Secret } from "../../contracts/secrets.ts";
import { forEachNamed } from "../each.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { print } from "../output.ts";
import { json, safe, table } from "../render.ts";
import { UsageError } from "../report.ts";
import { parseSecrets } from "../secrets.ts";

export function define(command: Command, context: CliContext): void {
  command.helpCommand(false);
  defineSet(command, context);
  defineLs(command, context);
  defineRm(command, context);
}

function defineSet(parent: Command, context: CliContext): void {
  const command = parent
    .command("set")
    .description("give a sandbox a secret, or one that it has another value, at once")
    .argument("<id>", "id, start of an id, or name")
    .argument(
      "<secret>",
      "NAME=env:VAR|file:PATH|cmd:COMMAND, and ,host=HOST and so on as for `warren create --secret`",
    )
    .option("--json", "print the sandbox as JSON")
    .addHelpText(
      "after",
      "\nWithout a host it keeps all that it had but its value. Commands that run already have no placeholder of a new one.",
    );
  addGlobalOptions(command).action(async (id: string, text: string, options: { json?: boolean }) => {
    const [secret] = parseSecrets([text]);
    if (!secret) throw new UsageError("this is no secret");
    const { name, ...rest } = secret;
    const api = await connectApi(command, context);
    const sandbox = await api.secrets.put(id, name, rest);
    await print(options.json ? json(sandbox) : safe(name));
  });
}

function defineLs(parent: Command, context: CliContext): void {
  const command = parent
    .command("ls")
    .description("list a sandbox's secrets: their names and hosts")
    .argument("<id>", "id, start of an id, or name")
    .option("--json", "print a JSON array");
  addGlobalOptions(command).action(async (id: string, options: { json?: boolean }) => {
    const api = await connectApi(command, context);
    const secrets = await api.secrets.list(id);
    await print(options.json ? json(secrets) : secretTable(secrets));
  });
}

function secretTable(secrets: readonly Secret[]): string {
  return table(
    ["NAME", "HOSTS", "SENT AS"],
    secrets.map(({ name, hosts, header, basic, env = name }) => [
      name,
      hosts.join(" "),
      basic
        ? `password of ${basic.username || "no user"}`
        : header
          ? `${header.name}: ${header.template}`
          : `what $${env} stands for`,
    ]),
  );
}

function defineRm(parent: Command, context: CliContext): void {
  const command = parent
    .command("rm")
    .description("take secrets from a sandbox; connections that they were added to end")
    .argument("<id>", "id, start of an id, or name")
    .argument("<name...>");
  addGlobalOptions(command).action(async (id: string, names: string[]) => {
    const api = await connectApi(command, context);
    await forEachNamed(names, async (name) => {
      await api.secrets.remove(id, name);
      return safe(name);
    });
  });
}
