// The main program of an engine that a test kills. argv[2] is an `EngineSettings` as JSON. Says "ready" on stdout; each
// line on stdin arms it anew with a `Point` as JSON, counted from there, and is answered with "armed".
import { mkdirSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { compose } from "../../../src/app/compose.ts";
import { createLogger } from "../../../src/app/log.ts";
import type { Step } from "../../../src/contracts/steps.ts";
import type { EngineSettings, Point } from "./engine-process.ts";

const { config, engine, group, point } = JSON.parse(process.argv[2] ?? "") as EngineSettings;

// All that the engine starts is in this group, but for what a container runtime moves to the sandbox's own.
mkdirSync(group, { recursive: true });
writeFileSync(join(group, "cgroup.procs"), String(process.pid));

let armed = point;
let counts = new Map<Step, number>();
const onStep = (step: Step) => {
  const count = (counts.get(step) ?? 0) + 1;
  counts.set(step, count);
  if (armed === "trace") writeSync(3, `${step}\n`);
  else if (armed?.step === step && armed.nth === count) process.kill(process.pid, "SIGKILL");
};

createInterface({ input: process.stdin }).on("line", (line) => {
  counts = new Map();
  armed = JSON.parse(line) as Point | "trace";
  writeSync(1, "armed\n");
});

process.umask(0o022);
const running = await compose(config, createLogger("warn"), { onStep, engine }).start();
writeSync(1, "ready\n");
process.once("SIGTERM", () => {
  void running.close().then(() => process.exit(0));
});
