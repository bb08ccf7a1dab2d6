import type { Command } from "commander";
import type { SandboxApi } from "../../contracts/api.ts";
import { WarrenError } from "../../contracts/errors.ts";
import type { SandboxStats } from "../../contracts/sandbox.ts";
import { formatBytes } from "../../lib/units.ts";
import { addGlobalOptions, type CliContext, connectApi } from "../globals.ts";
import { print } from "../output.ts";
import { json, shortIds, table } from "../render.ts";

type Row = { id: string; name?: string } & SandboxStats;

export function define(command: Command, context: CliContext): void {
  command
    .argument("[id...]", "ids, starts of ids, or names (default: all that run)")
    .option("--json", "print a JSON array");
  addGlobalOptions(command).action(async (ids: string[], options: { json?: boolean }) => {
    const api = await connectApi(command, context);
    const rows = ids.length > 0 ? await Promise.all(ids.map((id) => one(api, id))) : await running(api);
    await print(options.json ? json(rows) : statsTable(rows));
  });
}

async function one(api: SandboxApi, wanted: string): Promise<Row> {
  const { id, name } = await api.get(wanted);
  return { id, ...(name === undefined ? {} : { name }), ...(await api.stats(id)) };
}

async function running(api: SandboxApi): Promise<Row[]> {
  const sandboxes = (await api.list()).filter((sandbox) => sandbox.status === "running");
  const rows = await Promise.all(
    sandboxes.map(({ id }) =>
      one(api, id).catch((error: unknown) => {
        // It ended since we listed it.
        const codes = ["sandbox_not_found", "sandbox_wrong_state"];
        if (error instanceof WarrenError && codes.includes(error.code)) {
          return undefined;
        }
        throw error;
      }),
    ),
  );
  return rows.filter((row) => row !== undefined);
}

function statsTable(rows: readonly Row[]): string {
  const ids = shortIds(rows.map((row) => row.id));
  return table(
    ["ID", "NAME", "CPU", "MEMORY", "LIMIT", "NET RX/TX", "DISK R/W", "PIDS"],
    rows.map((row, i) => [
      ids[i] ?? row.id,
      row.name ?? "",
      `${row.cpu_percent.toFixed(1)}%`,
      formatBytes(row.memory_usage),
      row.memory_limit === 0 ? "none" : formatBytes(row.memory_limit),
      `${formatBytes(row.network_rx)} / ${formatBytes(row.network_tx)}`,
      `${formatBytes(row.disk_read)} / ${formatBytes(row.disk_write)}`,
      String(row.pid_count),
    ]),
  );
}
