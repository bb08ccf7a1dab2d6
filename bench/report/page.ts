import type { Results } from "../results.ts";
import { goalsTable } from "./goals.ts";
import { table } from "./table.ts";

/** The page with its generated parts as these results say; what is written by hand stays. */
export function fillPage(page: string, results: Results): string {
  const parts = { machine: machine(results), goals: goalsTable(results), figures: figures(results) };
  let filled = page;
  for (const [name, text] of Object.entries(parts)) {
    const [from, to] = [`<!-- ${name}: generated -->`, `<!-- /${name} -->`];
    const [start, end] = [filled.indexOf(from), filled.indexOf(to)];
    if (start < 0 || end < start) throw new Error(`the page has no part ${from}`);
    filled = `${filled.slice(0, start + from.length)}\n${text}\n${filled.slice(end)}`;
  }
  return filled;
}

function machine({ date, commit, machine, options }: Results): string {
  const { kernel, cpu, cores, memoryMiB, node, load, versions } = machine;
  return `${date.slice(0, 10)}, commit ${commit}: ${cores} cores (${cpu}), ${Math.round(memoryMiB / 1024)} GiB, Linux ${kernel}, Node ${node};
${versions.join(", ")}. ${options.rounds} rounds; load average when it began: ${load.toFixed(1)}.`;
}

function figures(results: Results): string {
  const notes = results.notes.map((note) => `- ${note}`);
  return [
    table(results),
    ...(notes.length > 0 ? ["", "Not measured, or not in full:", "", ...notes] : []),
  ].join("\n");
}
