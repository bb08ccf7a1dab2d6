import { type Measure, type Results, summarise } from "../results.ts";
import { short, titleOf } from "./table.ts";

const PANELS = [
  "create to first stdout",
  "exec /bin/true",
  "destroy",
  "write 1 KiB",
  "read 1 KiB",
  "write 100 MiB",
  "read 100 MiB",
];

const WIDTH = 860;
const LEFT = 170;
const RIGHT = 130;
const ROW = 20;
const HEAD = 34;
const BAR = 12;

/** One panel for each measure: a bar to the median, a line to p99. Each panel has a scale of its own, from 0. */
export function plot(results: Results): string {
  const burst = `burst of ${results.options.burst} creates`;
  const shown = [...PANELS, burst].flatMap((what) => results.measures.filter((m) => m.what === what));
  let top = 10;
  const panels = shown.map((measure) => {
    const drawn = panel(measure, top);
    top += HEAD + Object.keys(measure.samples).length * ROW + 10;
    return drawn;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${top}" font-family="system-ui, sans-serif" font-size="12">
<title>Medians and p99 of Warren and its peers</title>
<rect width="100%" height="100%" fill="#fff"/>
${panels.join("\n")}
</svg>
`;
}

function panel(measure: Measure, top: number): string {
  const rows = Object.entries(measure.samples).map(([who, samples]) => ({
    who,
    ...summarise(measure, samples),
  }));
  // A p99 that dwarfs all medians would leave nothing to see: it is cut at the scale's end.
  const scale = Math.max(...rows.map(({ p50 }) => p50)) * 1.25;
  const x = (value: number): number => LEFT + (Math.min(value, scale) / scale) * (WIDTH - LEFT - RIGHT);
  const better = measure.unit === "MB/s" ? "more is better" : "less is better";
  const lines = rows.map(({ who, p50, p99, n }, i) => {
    const y = top + HEAD + i * ROW;
    const middle = y + BAR / 2;
    const colour = who.startsWith("Warren") ? "#c2571a" : "#8a94a6";
    const spread =
      n > 1
        ? `<path d="M${round(x(p50))} ${middle}H${round(x(p99))}m0 -4v8" stroke="#222" fill="none"/>`
        : "";
    const text = n > 1 ? `${short(p50)} / ${short(p99)}` : short(p50);
    return `<text x="${LEFT - 8}" y="${y + 10}" text-anchor="end">${escaped(who)}</text><rect x="${LEFT}" y="${y}" width="${round(x(p50) - LEFT)}" height="${BAR}" fill="${colour}"/>${spread}<text x="${WIDTH - RIGHT + 8}" y="${y + 10}" fill="#444">${text}</text>`;
  });
  const title = `<text x="${LEFT}" y="${top + 18}" font-weight="600">${escaped(titleOf(measure))}: p50 / p99 (${better})</text>`;
  return [title, ...lines].join("\n");
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

function escaped(text: string): string {
  return text.replace(/[&<>]/g, (char) => `&#${char.charCodeAt(0)};`);
}
