// Makes the figures of docs/performance.md and its plot from a results file: dist/bench/publish.js [results.json]
// With --add, what was published stays, and gets the measures of another run that it does not have.
import { copyFile, readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { fillPage } from "./report/page.ts";
import { plot } from "./report/plot.ts";
import type { Results } from "./results.ts";

const PUBLISHED = "bench/results/published.json";

const read = async (path: string) => JSON.parse(await readFile(path, "utf8")) as Results;
const { values, positionals } = parseArgs({ options: { add: { type: "string" } }, allowPositionals: true });
const [given = PUBLISHED] = positionals;
if (given !== PUBLISHED) await copyFile(given, PUBLISHED);
const results = await read(PUBLISHED);
if (values.add !== undefined) {
  const more = await read(values.add);
  const added = more.measures.filter(({ what }) => !results.measures.some((one) => one.what === what));
  results.measures.push(...added);
  const { date, commit, machine } = more;
  results.notes.push(
    ...more.notes,
    `from a run of their own (${date.slice(0, 10)}, commit ${commit}, load average when it began ${machine.load.toFixed(1)}): ` +
      `${added.length} measures, from "${added[0]?.what}" on`,
  );
  await writeFile(PUBLISHED, `${JSON.stringify(results)}\n`);
}
await writeFile("docs/performance.svg", plot(results));
const page = await readFile("docs/performance.md", "utf8");
await writeFile("docs/performance.md", fillPage(page, results));
