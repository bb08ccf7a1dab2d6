import { egressWho } from "../phases/egress.ts";
import { limitCases } from "../phases/limits.ts";
import { type Measure, type Results, summarise } from "../results.ts";
import { BASE, short } from "./table.ts";

/** A figure that Warren is meant to reach. */
interface Goal {
  what: string;
  unit: string;
  limit: number;
  /** For what should be large. */
  atLeast?: true;
  value(of: Lookup): number | undefined;
}

type Lookup = (what: RegExp, who: string, which?: "p50" | "p99") => number | undefined;

const CLI = "one command from a shell";

const HTTPS = /^HTTPS request, a connection each$/;
const idleMemory = (of: string) => new RegExp(`^memory of each of \\d+ more idle connections: ${of}`);

const AT_LIMIT = /^exec at a limit$/;

const goals: Goal[] = [
  ...(["p50", "p99"] as const).map(
    (which): Goal => ({
      what: `create to first stdout, ${which}`,
      unit: "ms",
      limit: which === "p50" ? 20 : 60,
      value: (of) => of(/^create to first stdout$/, BASE, which),
    }),
  ),
  {
    what: "the same, p50, beside bare `crun run`",
    unit: "×",
    limit: 1.5,
    value: (of) => ratio(of(/^create to first stdout$/, BASE), of(/^create to first stdout$/, "crun (bare)")),
  },
  { what: "exec, p50", unit: "ms", limit: 2, value: (of) => of(/^exec \/bin\/true$/, BASE) },
  ...(["podman", "docker"] as const).map(
    (engine): Goal => ({
      what: `the same over ${engine}, beside it`,
      unit: "×",
      limit: 1.5,
      value: (of) =>
        ratio(of(/^exec \/bin\/true$/, `Warren HTTP (${engine})`), of(/^exec \/bin\/true$/, BASE)),
    }),
  ),
  ...(["cpu", "pids", "memory"] as const).map(
    (limit): Goal => ({
      what: `exec with ${limitCases[limit]}, p99, beside one ${limitCases.plain}`,
      unit: "×",
      limit: 3,
      value: (of) => ratio(of(AT_LIMIT, limitCases[limit], "p99"), of(AT_LIMIT, limitCases.plain, "p99")),
    }),
  ),
  { what: "write 1 KiB, p50", unit: "ms", limit: 1, value: (of) => of(/^write 1 KiB$/, BASE) },
  { what: "read 1 KiB, p50", unit: "ms", limit: 1, value: (of) => of(/^read 1 KiB$/, BASE) },
  {
    what: "write 100 MiB",
    unit: "MB/s",
    limit: 500,
    atLeast: true,
    value: (of) => of(/^write 100 MiB$/, BASE),
  },
  {
    what: "read 100 MiB",
    unit: "MB/s",
    limit: 500,
    atLeast: true,
    value: (of) => of(/^read 100 MiB$/, BASE),
  },
  {
    what: "burst of 100 creates",
    unit: "ms",
    limit: 1500,
    value: (of) => of(/^burst of 100 creates$/, BASE),
  },
  {
    what: "failures in it",
    unit: "",
    limit: 0,
    value: (of) => of(/^failures in a burst of 100 creates$/, BASE, "p99"),
  },
  { what: "destroy, p50", unit: "ms", limit: 15, value: (of) => of(/^destroy$/, BASE) },
  {
    what: "memory of 1000 idle sandboxes",
    unit: "MiB",
    limit: 700,
    value: (of) => of(/^memory of 1000 idle sandboxes, all$/, BASE),
  },
  {
    what: "exec with them, p50, beside exec with one",
    unit: "×",
    limit: 2,
    value: (of) => ratio(of(/^exec with 1000 sandboxes$/, BASE), of(/^exec with 1 sandbox$/, BASE)),
  },
  {
    what: "an HTTPS request out of a filtered sandbox, p50, more than directly",
    unit: "ms",
    limit: 3,
    value: (of) => difference(of(HTTPS, BASE), of(HTTPS, egressWho.direct)),
  },
  ...(["client", "server"] as const).map(
    (to): Goal => ({
      what: `throughput out of it, to the ${to}`,
      unit: "MB/s",
      limit: 300,
      atLeast: true,
      value: (of) => of(new RegExp(`^\\d+ MiB to the ${to}$`), BASE),
    }),
  ),
  {
    what: "an HTTPS request with a secret, p50, beside one without",
    unit: "×",
    limit: 2,
    value: (of) => ratio(of(HTTPS, egressWho.secret), of(HTTPS, BASE)),
  },
  ...(["HTTP/1.1", "HTTP/2"] as const).flatMap((protocol) =>
    (["client", "server"] as const).map(
      (to): Goal => ({
        what: `throughput over HTTPS with a secret, to the ${to}, ${protocol}`,
        unit: "MB/s",
        limit: 150,
        atLeast: true,
        value: (of) =>
          of(
            new RegExp(`^\\d+ MiB over HTTPS to the ${to}, ${protocol.replace(".", "\\.")}$`),
            egressWho.secret,
          ),
      }),
    ),
  ),
  {
    what: "failures of 1000 connections out of it, and 1000 more",
    unit: "",
    limit: 0,
    value: (of) => of(/^failures of 2000 connections$/, BASE, "p99"),
  },
  {
    what: "memory of an idle one of them: engine, relay, and kernel more than directly",
    unit: "KiB",
    limit: 20,
    value: (of) =>
      sum(
        of(idleMemory("in use in the engine"), BASE),
        of(idleMemory("the guest"), BASE),
        difference(of(idleMemory("kernel"), BASE), of(idleMemory("kernel"), egressWho.direct)),
      ),
  },
  {
    what: "`warren exec`, p50, beside `node -e 0`",
    unit: "×",
    limit: 1.5,
    value: (of) =>
      ratio(of(new RegExp(`^${CLI}$`), "warren exec (CLI)"), of(new RegExp(`^${CLI}$`), "node -e 0")),
  },
];

/** Goals and what was reached, as a Markdown table. */
export function goalsTable({ measures }: Results): string {
  const lookup: Lookup = (what, who, which = "p50") => {
    const measure = measures.find((one: Measure) => what.test(one.what));
    const samples = measure?.samples[who];
    return measure && samples && summarise(measure, samples)[which];
  };
  const rows = goals.map(({ what, unit, limit, atLeast, value }) => {
    const reached = value(lookup);
    const goal = `${atLeast ? "≥" : "≤"} ${limit} ${unit}`.trim();
    if (reached === undefined) return `| ${what} | ${goal} | not measured | |`;
    const isReached = atLeast ? reached >= limit : reached <= limit;
    const verdict = isReached
      ? "yes"
      : `no: ${short(atLeast ? limit / reached : reached / limit)} × the goal`;
    return `| ${what} | ${goal} | ${short(reached)} ${unit} | ${verdict} |`;
  });
  return ["| what | goal | measured | reached |", "| --- | ---: | ---: | --- |", ...rows].join("\n");
}

function difference(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? undefined : a - b;
}

function sum(...parts: (number | undefined)[]): number | undefined {
  return parts.reduce((all, part) => (all === undefined || part === undefined ? undefined : all + part), 0);
}

function ratio(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? undefined : a / b;
}
