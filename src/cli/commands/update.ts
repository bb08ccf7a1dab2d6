import type { Command } from "commander";
import type { UpdateSandbox } from "../../contracts/sandbox.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { bytes, nanoCpus, wholeNumber } from "../options.ts";
import { print } from "../output.ts";
import { json, safe } from "../render.ts";
import { UsageError } from "../report.ts";

interface UpdateOptions {
  memory?: string;
  memoryHigh?: string;
  cpus?: string;
  pids?: string;
  json?: boolean;
}

export function define(command: Command, context: CliContext): void {
  command
    .argument("<id>", "id, start of an id, or name")
    .option("-m, --memory <size>", "most memory, swap included, such as 512m; 0: the server's default")
    .option(
      "--memory-high <size>",
      "memory above which the kernel takes it back without killing; 0: no such limit",
    )
    .option("--cpus <cores>", "most processor time, in cores, such as 1.5; 0: the server's default")
    .option("--pids <number>", "most processes and threads; 0: the server's default")
    .option("--json", "print the sandbox as JSON")
    .addHelpText(
      "after",
      "\nA running sandbox has its new limits at once, a stopped one when it starts. What isn't given stays.",
    );
  addGlobalOptions(command).action(async (id: string, options: UpdateOptions) => {
    const { memory, memoryHigh, cpus, pids } = options;
    const changes: UpdateSandbox = {
      ...(memory === undefined ? {} : { memory: bytes(memory) }),
      ...(memoryHigh === undefined ? {} : { memory_high: bytes(memoryHigh) }),
      ...(cpus === undefined ? {} : { cpu: Number(cpus) === 0 ? 0 : nanoCpus(cpus) }),
      ...(pids === undefined ? {} : { pid_limit: wholeNumber(pids) }),
    };
    if (Object.keys(changes).length === 0) {
      throw new UsageError("no limit was given", "give --memory, --memory-high, --cpus or --pids");
    }
    const api = await connectApi(command, context);
    const sandbox = await api.update(id, changes);
    await print(options.json ? json(sandbox) : safe(sandbox.id));
  });
}
