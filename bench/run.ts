// The command line of the bench; scripts/bench.sh runs it.
import { mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { runBench } from "./bench.ts";
import { table } from "./report/table.ts";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "100" },
    burst: { type: "string", default: "100" },
    idle: { type: "string", default: "1000" },
    connections: { type: "string", default: "1000" },
    churn: { type: "string", default: "5000" },
    only: { type: "string" },
    parts: { type: "string" },
    out: { type: "string", default: "bench/results/latest.json" },
  },
});

const stop = new AbortController();
for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => stop.abort());

const results = await runBench({
  rounds: Number(values.rounds),
  burst: Number(values.burst),
  idle: Number(values.idle),
  ...(Number(values.connections) === 0
    ? {}
    : {
        egress: {
          rounds: 5,
          requests: 500,
          connections: Number(values.connections),
          churn: Number(values.churn),
          mebibytes: 256,
          httpsMebibytes: 100,
        },
      }),
  largeBytes: 100 * 2 ** 20,
  signal: stop.signal,
  ...(values.parts === undefined ? {} : { parts: values.parts.split(",") }),
  ...(values.only === undefined ? {} : { only: values.only.split(",") }),
});
await mkdir(dirname(values.out), { recursive: true });
await writeFile(values.out, `${JSON.stringify(results)}\n`);
process.stdout.write(`${table(results)}\n`);
for (const note of results.notes) process.stdout.write(`note: ${note}\n`);
// Kept connections must not hold the end.
process.exit(stop.signal.aborted ? 130 : 0);
