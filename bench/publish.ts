// Makes the figures of docs/performance.md and its plot from a results file: dist/bench/publish.js [results.json]
import { copyFile, readFile, writeFile } from "node:fs/promises";
import { fillPage } from "./report/page.ts";
import { plot } from "./report/plot.ts";
import type { Results } from "./results.ts";

const PUBLISHED = "bench/results/published.json";

const given = process.argv[2] ?? PUBLISHED;
if (given !== PUBLISHED) await copyFile(given, PUBLISHED);
const results = JSON.parse(await readFile(PUBLISHED, "utf8")) as Results;
await writeFile("docs/performance.svg", plot(results));
const page = await readFile("docs/performance.md", "utf8");
await writeFile("docs/performance.md", fillPage(page, results));
