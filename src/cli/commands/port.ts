import type { Command } from "commander";
import type { PublishedPort } from "../../contracts/ports.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { print } from "../output.ts";
import { hostSide, parsePort, parsePublish } from "../publish.ts";
import { json, safe, table } from "../render.ts";
import { define as definePreview } from "./preview.ts";

export function define(command: Command, context: CliContext): void {
  command.helpCommand(false);
  defineLs(command, context);
  defineAdd(command, context);
  defineRm(command, context);
  definePreview(
    command.command("url").description("print a link to an HTTP server inside, as `warren preview` does"),
    context,
  );
}

function defineLs(parent: Command, context: CliContext): void {
  const command = parent
    .command("ls")
    .description("list a sandbox's published ports")
    .argument("<id>", "id, start of an id, or name")
    .option("--json", "print a JSON array");
  addGlobalOptions(command).action(async (id: string, options: { json?: boolean }) => {
    const api = await connectApi(command, context);
    const ports = await api.ports.list(id);
    await print(options.json ? json(ports) : portTable(ports));
  });
}

function defineAdd(parent: Command, context: CliContext): void {
  const command = parent
    .command("add")
    .description("publish a port and print where it is reached")
    .argument("<id>", "id, start of an id, or name")
    .argument("<port>", "[ADDRESS:]HOST:SANDBOX[/udp], or SANDBOX[/udp] for a host port that is chosen")
    .option("--json", "print the port as JSON");
  addGlobalOptions(command).action(async (id: string, port: string, options: { json?: boolean }) => {
    const asked = parsePublish(port);
    const api = await connectApi(command, context);
    const added = await api.ports.add(id, asked);
    await print(options.json ? json(added) : safe(hostSide(added)));
  });
}

function defineRm(parent: Command, context: CliContext): void {
  const command = parent
    .command("rm")
    .description("publish a port no longer; its connections end")
    .argument("<id>", "id, start of an id, or name")
    .argument("<ports...>", "ports inside: SANDBOX[/udp]");
  addGlobalOptions(command).action(async (id: string, ports: string[]) => {
    const choices = ports.map(parsePort);
    const api = await connectApi(command, context);
    for (const choice of choices) await api.ports.remove(id, choice);
  });
}

function portTable(ports: readonly PublishedPort[]): string {
  return table(
    ["SANDBOX", "HOST", "STATE", "WHY"],
    ports.map((port) => [
      `${port.sandbox_port}/${port.protocol}`,
      hostSide(port),
      port.state,
      port.error ?? "",
    ]),
  );
}
