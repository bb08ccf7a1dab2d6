import type { Command } from "commander";
import type { SnapshotInfo } from "../../contracts/snapshots.ts";
import { formatBytes } from "../../lib/units.ts";
import { forEachNamed } from "../each.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { interruptible } from "../interruptible.ts";
import { collect, expirySeconds, parseLabels } from "../options.ts";
import { print } from "../output.ts";
import { age, json, safe, table } from "../render.ts";

const SNAPSHOT = ["<snapshot>", "id, start of an id, or a name that only one has"] as const;

export function define(command: Command, context: CliContext): void {
  command.helpCommand(false);
  defineCreate(command, context);
  defineLs(command, context);
  defineInspect(command, context);
  defineRestore(command, context);
  defineRm(command, context);
}

function defineCreate(parent: Command, context: CliContext): void {
  const command = parent
    .command("create")
    .description("take a snapshot of a sandbox's files and settings, and print its id")
    .argument(
      "<sandbox>",
      "id, start of an id, or name; it runs, is paused or stopped, and goes on as it was",
    )
    .option("--name <name>", "what to call it; several may have the same name")
    .option("--json", "print the snapshot as JSON")
    .addHelpText("after", "\nWhat lies in volumes, binds and tmpfs is not in it, nor are processes.");
  addGlobalOptions(command).action(async (sandbox: string, options: { name?: string; json?: boolean }) => {
    const { name } = options;
    const api = await connectApi(command, context);
    const made = await interruptible((signal) =>
      api.snapshots.create(sandbox, name === undefined ? {} : { name }, { signal }),
    );
    if (made) await print(options.json ? json(made) : safe(made.id));
  });
}

function defineLs(parent: Command, context: CliContext): void {
  const command = parent
    .command("ls")
    .description("list snapshots")
    .argument("[sandbox]", "only those of this one; of one that is gone by its full id")
    .option("-q, --quiet", "only ids")
    .option("--json", "print a JSON array");
  addGlobalOptions(command).action(
    async (sandbox: string | undefined, options: { quiet?: boolean; json?: boolean }) => {
      const api = await connectApi(command, context);
      const all = await api.snapshots.list(sandbox === undefined ? {} : { sandbox_id: sandbox });
      if (options.json) await print(json(all));
      else if (!options.quiet) await print(snapshotTable(all, Date.now()));
      else if (all.length > 0) await print(all.map(({ id }) => safe(id)).join("\n"));
    },
  );
}

function snapshotTable(all: readonly SnapshotInfo[], now: number): string {
  return table(
    ["ID", "NAME", "SANDBOX", "IMAGE", "RUNTIME", "SIZE", "AGE"],
    all.map(({ id, name, sandbox_id, image, runtime, size, created_at }) => [
      id,
      name,
      sandbox_id,
      image,
      runtime,
      formatBytes(size),
      age(created_at, now),
    ]),
  );
}

function defineInspect(parent: Command, context: CliContext): void {
  const command = parent
    .command("inspect")
    .description("print all that is known of a snapshot, as JSON")
    .argument(...SNAPSHOT)
    .option("--json", "JSON; that is the only format");
  addGlobalOptions(command).action(async (id: string) => {
    const api = await connectApi(command, context);
    await print(json(await api.snapshots.get(id)));
  });
}

interface RestoreOptions {
  name?: string;
  label?: string[];
  timeout?: string;
  json?: boolean;
}

function defineRestore(parent: Command, context: CliContext): void {
  const command = parent
    .command("restore")
    .description("create a sandbox that is what the snapshot's was, and print its id")
    .argument(...SNAPSHOT)
    .option("--name <name>", "name of the new sandbox (default: none)")
    .option("-l, --label <key=value>", "labels instead of the old ones (repeatable)", collect)
    .option(
      "--timeout <duration>",
      "time until it expires, such as 30m, or `never` (default: as it was given)",
    )
    .option("--json", "print the sandbox as JSON");
  addGlobalOptions(command).action(async (id: string, options: RestoreOptions) => {
    const { name, label, timeout } = options;
    const request = {
      ...(name === undefined ? {} : { name }),
      ...(label === undefined ? {} : { labels: parseLabels(label) }),
      ...(timeout === undefined ? {} : { timeout: expirySeconds(timeout) }),
    };
    const api = await connectApi(command, context);
    const sandbox = await interruptible((signal) => api.snapshots.restore(id, request, { signal }));
    if (sandbox) await print(options.json ? json(sandbox) : safe(sandbox.id));
  });
}

function defineRm(parent: Command, context: CliContext): void {
  const command = parent
    .command("rm")
    .description("remove snapshots; sandboxes that were restored from them stay whole")
    .argument("<snapshot...>", "ids, starts of ids, or names that only one has");
  addGlobalOptions(command).action(async (ids: string[]) => {
    const api = await connectApi(command, context);
    await forEachNamed(ids, async (id) => {
      await api.snapshots.remove(id);
      return safe(id);
    });
  });
}
