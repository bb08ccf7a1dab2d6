import { type Measure, type Results, summarise } from "../results.ts";

/** What everything is compared with. */
export const BASE = "Warren HTTP (crun)";

/** All measures of a run as one Markdown table. */
export function table({ measures }: Results): string {
  const lines = [
    "| what | who | p50 | p99 | n | p50 / Warren's |",
    "| --- | --- | ---: | ---: | ---: | ---: |",
    ...measures.flatMap(rows),
  ];
  return lines.join("\n");
}

function rows(measure: Measure): string[] {
  const base = measure.samples[BASE] && summarise(measure, measure.samples[BASE]).p50;
  return Object.entries(measure.samples).map(([who, samples], i) => {
    const { p50, p99, n } = summarise(measure, samples);
    const ratio = base && measure.unit !== "number" ? (p50 / base).toFixed(2) : "";
    const what = i === 0 ? titleOf(measure) : "";
    return `| ${what} | ${who} | ${short(p50)} | ${n > 1 ? short(p99) : ""} | ${n} | ${ratio} |`;
  });
}

/** Three digits are more than a run can tell. */
export function short(value: number): string {
  const size = Math.abs(value);
  return size >= 100 || Number.isInteger(value)
    ? String(Math.round(value))
    : value.toPrecision(size >= 10 ? 3 : 2);
}

export function titleOf({ what, unit }: Measure): string {
  return unit === "number" ? what : `${what}, ${unit}`;
}
