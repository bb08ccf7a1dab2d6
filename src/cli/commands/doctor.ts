import { isatty } from "node:tty";
import type { Command } from "commander";
import { capabilityTable } from "../../app/capability-table.ts";
import { readEnvironment, resolveStateDir } from "../../app/config.ts";
import type { DoctorReport, RuntimeReport } from "../../app/doctor.ts";
import type { ProbeFinding } from "../../contracts/runtime.ts";
import { formatBytes } from "../../lib/units.ts";
import { addGlobalOptions } from "../globals.ts";
import { print } from "../output.ts";
import { json, type Paint, painter, safe, table } from "../render.ts";
import { EXIT_FAILURE } from "../report.ts";

export function define(command: Command): void {
  command
    .option("--json", "print the report as JSON")
    .option(
      "--prepare-cgroups <user>",
      "as root: give this user cgroups, so that limits can be enforced without root; they last until the next boot",
    )
    .addHelpText("after", "\nThe exit code is 1 when the default runtime can't create sandboxes here.");
  addGlobalOptions(command).action(async (options: { json?: boolean; prepareCgroups?: string }) => {
    if (options.prepareCgroups !== undefined) {
      const { prepareCgroups } = await import("../../app/prepare-cgroups.ts");
      const dirs = await prepareCgroups(options.prepareCgroups);
      return print(dirs.map(safe).join("\n"));
    }
    const { examine } = await import("../../app/doctor.ts");
    const { parseServeConfig } = await import("../../app/serve-config.ts");
    const environment = readEnvironment();
    const stateDir = resolveStateDir(command.optsWithGlobals<{ stateDir?: string }>().stateDir, environment);
    const report = await examine(parseServeConfig({ stateDir, onDemand: true }, environment));
    const paint = painter(isatty(1) && !environment.plain);
    await print(options.json ? json(report) : describe(report, paint));
    process.exitCode = report.ok ? 0 : EXIT_FAILURE;
  });
}

function describe(report: DoctorReport, paint: Paint): string {
  const { memory, state_dir, audit, engine } = report;
  const facts: [string, string][] = [
    ["warren", report.version],
    ["node", report.node],
    ["kernel", `${report.kernel}, cgroup ${report.cgroup}`],
    ["memory", `${formatBytes(memory.available)} available of ${formatBytes(memory.total)}`],
    ["state", `${state_dir.path}, ${formatBytes(state_dir.free)} free`],
    ["audit", audit.problem ?? `${audit.records} records, none changed`],
    ["engine", engineLine(engine)],
  ];
  const lines = facts.map(([name, fact]) => `${name.padEnd(8)}${safe(fact)}`);
  for (const runtime of report.runtimes) {
    const title = `runtime ${paint("bold", safe(runtime.runtime))}${runtime.default ? " (default)" : ""}`;
    lines.push("", `${title}: ${verdict(runtime, paint)}${version(runtime.version)}`);
    lines.push(...runtime.findings.flatMap((finding) => findingLines(finding, runtime, paint)));
  }
  const able = report.runtimes.flatMap(({ runtime, capabilities }) =>
    capabilities ? [[runtime, capabilities] as const] : [],
  );
  if (able.length > 0) {
    const [header, ...rows] = capabilityTable(Object.fromEntries(able));
    lines.push("", table(["what they can do here", ...header.slice(1)], rows));
  }
  return lines.join("\n");
}

function engineLine(engine: DoctorReport["engine"]): string {
  if (!engine.running) {
    return "not running; the first command that needs it starts it";
  }
  const pid = engine.pid === undefined ? "" : `, pid ${engine.pid}`;
  return `running${pid}${engine.version === undefined ? ", but it does not answer" : `, version ${engine.version}`}`;
}

const version = (text: string | undefined) => (text === undefined ? "" : ` (${safe(text)})`);

/** Of several runtimes most machines have some. */
function verdict({ usable, default: isDefault }: RuntimeReport, paint: Paint): string {
  if (usable) return paint("green", "usable");
  return isDefault ? paint("red", "not usable") : "not usable";
}

const marks = { ok: ["green", "ok"], warning: ["yellow", "warning"], error: ["red", "error"] } as const;
const note = ["bold", "note"] as const;

function findingLines(
  { level, message, fix }: ProbeFinding,
  { default: isDefault }: RuntimeReport,
  paint: Paint,
): string[] {
  const [colour, word] = level === "error" && !isDefault ? note : marks[level];
  const line = `  ${paint(colour, word)}${" ".repeat(9 - word.length)}${safe(message)}`;
  return fix === undefined ? [line] : [line, `           fix: ${safe(fix)}`];
}
