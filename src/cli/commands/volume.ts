import type { Command } from "commander";
import { WarrenError } from "../../contracts/errors.ts";
import type { VolumeInfo, VolumeUsage } from "../../contracts/volumes.ts";
import { formatBytes } from "../../lib/units.ts";
import { forEachNamed } from "../each.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { collect, parseLabels } from "../options.ts";
import { print } from "../output.ts";
import { age, json, safe, table } from "../render.ts";

interface RuntimeOption {
  runtime?: string;
}

const RUNTIME = ["--runtime <name>", "runtime driver (default: the engine's)"] as const;
const OF_RUNTIME = [
  "--runtime <name>",
  "only those of this runtime (default: of all that have volumes)",
] as const;

export function define(command: Command, context: CliContext): void {
  command.helpCommand(false);
  defineCreate(command, context);
  defineLs(command, context);
  defineInspect(command, context);
  defineRm(command, context);
  defineDu(command, context);
}

function defineCreate(parent: Command, context: CliContext): void {
  const command = parent
    .command("create")
    .description("create a volume and print its name")
    .argument("<name>", "letters, digits, '_', '.' and '-'; one that exists is success")
    .option("-l, --label <key=value>", "label (repeatable)", collect)
    .option(...RUNTIME)
    .option("--json", "print the volume as JSON");
  addGlobalOptions(command).action(
    async (name: string, options: RuntimeOption & { label?: string[]; json?: boolean }) => {
      const labels = options.label === undefined ? {} : { labels: parseLabels(options.label) };
      const api = await connectApi(command, context);
      const volume = await api.volumes.create({ name, ...labels, ...runtimeOf(options) });
      await print(options.json ? json(volume) : safe(volume.name));
    },
  );
}

function defineLs(parent: Command, context: CliContext): void {
  const command = parent
    .command("ls")
    .description("list volumes")
    .argument("[prefix]", "only those whose name begins so")
    .option(...OF_RUNTIME)
    .option("-q, --quiet", "only names")
    .option("--json", "print a JSON array");
  addGlobalOptions(command).action(
    async (prefix: string | undefined, options: RuntimeOption & { quiet?: boolean; json?: boolean }) => {
      const api = await connectApi(command, context);
      const volumes = await api.volumes.list(filter(prefix, options));
      if (options.json) await print(json(volumes));
      else if (!options.quiet) await print(volumeTable(volumes, Date.now()));
      else if (volumes.length > 0) await print(volumes.map(({ name }) => safe(name)).join("\n"));
    },
  );
}

function volumeTable(volumes: readonly VolumeInfo[], now: number): string {
  return table(
    ["NAME", "RUNTIME", "AGE", "LABELS"],
    volumes.map(({ name, runtime, created_at, labels }) => [
      name,
      runtime,
      age(created_at ?? "", now),
      Object.entries(labels)
        .map(([key, value]) => `${key}=${value}`)
        .join(","),
    ]),
  );
}

function defineInspect(parent: Command, context: CliContext): void {
  const command = parent
    .command("inspect")
    .description("print all that is known of a volume, as JSON")
    .argument("<name>")
    .option(...RUNTIME)
    .option("--json", "JSON; that is the only format");
  addGlobalOptions(command).action(async (name: string, options: RuntimeOption) => {
    const api = await connectApi(command, context);
    await print(json(await api.volumes.get(name, runtimeOf(options))));
  });
}

function defineRm(parent: Command, context: CliContext): void {
  const command = parent
    .command("rm")
    .description("remove volumes with all that is in them")
    .argument("<name...>", "volumes that no sandbox has, stopped ones included")
    .option(...RUNTIME)
    .option(
      "-f, --force",
      "remove the sandboxes that have it first; a volume that does not exist is success",
    );
  addGlobalOptions(command).action(async (names: string[], options: RuntimeOption & { force?: boolean }) => {
    const { force = false } = options;
    const api = await connectApi(command, context);
    await forEachNamed(names, async (name) => {
      try {
        await api.volumes.remove(name, { force, ...runtimeOf(options) });
      } catch (error) {
        const isGone = error instanceof WarrenError && error.code === "volume_not_found";
        if (!(isGone && force)) throw error;
      }
      return safe(name);
    });
  });
}

function defineDu(parent: Command, context: CliContext): void {
  const command = parent
    .command("du")
    .description("show what volumes take on disk")
    .argument("[prefix]", "only those whose name begins so")
    .option(...OF_RUNTIME)
    .option("--json", "print a JSON array");
  addGlobalOptions(command).action(
    async (prefix: string | undefined, options: RuntimeOption & { json?: boolean }) => {
      const api = await connectApi(command, context);
      const usage = await api.volumes.usage(filter(prefix, options));
      await print(options.json ? json(usage) : usageTable(usage));
    },
  );
}

function usageTable(usage: readonly VolumeUsage[]): string {
  return table(
    ["NAME", "RUNTIME", "SIZE"],
    usage.map(({ name, runtime, size }) => [name, runtime, formatBytes(size)]),
  );
}

function filter(prefix: string | undefined, options: RuntimeOption): RuntimeOption & { prefix?: string } {
  return { ...(prefix === undefined ? {} : { prefix }), ...runtimeOf(options) };
}

function runtimeOf({ runtime }: RuntimeOption): RuntimeOption {
  return runtime === undefined ? {} : { runtime };
}
