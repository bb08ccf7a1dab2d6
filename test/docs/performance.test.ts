import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { fillPage } from "../../bench/report/page.ts";
import { plot } from "../../bench/report/plot.ts";
import type { Results } from "../../bench/results.ts";

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");

it("docs/performance.md and its plot show the published samples", () => {
  const results = JSON.parse(read("bench/results/published.json")) as Results;
  const page = read("docs/performance.md");
  // Run `scripts/bench.sh --publish`, or dist/bench/publish.js, when this fails.
  expect(page).toBe(fillPage(page, results));
  expect(read("docs/performance.svg")).toBe(plot(results));
});
