import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import type { SandboxInfo } from "../../../src/contracts/sandbox.ts";
import { readAll } from "../../../src/testing/guest-tools.ts";
import type { EngineProcess } from "./engine-process.ts";
import { allPids, commandOf, type HostView, unwanted } from "./host.ts";
import type { Box, World } from "./world.ts";

/** Where scenarios write files, and nothing else is. */
export const DATA = "/data";
/** Part of each command line that a scenario runs and that must not outlive its caller. */
export const MARK = "424242";
/** Nobody is there: the network stack of a sandbox drops what it gets for it. Scenarios name it in rules, or don't. */
export const RULED = "10.0.2.2";
/** Says "yes" when a datagram for the first argument may leave. */
const send = `use Socket; socket(my $s, AF_INET, SOCK_DGRAM, 0);
  print defined send($s, "x", 0, pack_sockaddr_in(9, inet_aton($ARGV[0]))) ? "yes" : "no"`;
/** Bound of what takes a moment after an engine is ready: probes, trash, the last output of a main command. */
const PATIENCE_MS = 15_000;

/** Fails unless every record is true, everything acknowledged is there, and nothing else is. Then the world is certain. */
export async function checkInvariant(
  world: World,
  engine: EngineProcess,
  host: Pick<HostView, "stateDir" | "group">,
  { logsHaveGaps = false } = {},
): Promise<void> {
  const infos = new Map((await engine.api.list()).map((info) => [info.name ?? info.id, info]));
  const wrong: string[] = [];
  for (const name of infos.keys()) if (!world.boxes.has(name)) wrong.push(`nobody asked for ${name}`);
  for (const [name, possible] of [...world.boxes]) {
    const info = infos.get(name);
    const actual = info && boxOf(info);
    if (!possible.some((box) => isDeepStrictEqual(box, actual))) {
      wrong.push(`${name} is ${JSON.stringify(info)}, not one of ${JSON.stringify(possible)}`);
      continue;
    }
    if (!info || !actual) {
      world.boxes.delete(name);
      world.files.delete(name);
      continue;
    }
    world.boxes.set(name, [actual]);
    if (actual.status === "running") wrong.push(...(await checkRunning(world, engine, name, info)));
    if (actual.status !== "running" && actual.status !== "paused" && info.pid !== undefined) {
      wrong.push(`${name} is ${actual.status} and has the process ${info.pid}`);
    }
    if (actual.hasMain) wrong.push(...(await checkLog(engine, name, logsHaveGaps)));
  }
  const alive = [...infos.values()].filter(({ status }) => status === "running" || status === "paused");
  const view = {
    ...host,
    engine: engine.pid,
    known: [...infos.values()].map(({ id }) => id),
    snapshots: (await engine.api.snapshots.list()).map(({ id }) => id),
    alive: alive.map(({ id }) => id),
  };
  wrong.push(...(await checkSnapshots(engine, host.stateDir, infos.size)));
  wrong.push(...(await eventually(() => unwanted(view))));
  if (wrong.length > 0) throw new Error(`${wrong.join("\n")}\n--- the engine said\n${engine.said()}`);
}

/** Those that are told of are there and whole; nothing is there of others but layers that sandboxes stand on. */
async function checkSnapshots(
  { api }: EngineProcess,
  stateDir: string,
  sandboxes: number,
): Promise<string[]> {
  const told = await api.snapshots.list();
  const dir = join(stateDir, "oci/snapshots");
  const there = readdirSync(dir).filter((name) => name !== "layers");
  const layers = existsSync(join(dir, "layers")) ? readdirSync(join(dir, "layers")) : [];
  const wrong = told.filter(({ error }) => error).map(({ id, error }) => `snapshot ${id}: ${error}`);
  const expected = told.map(({ id }) => `${id}.json`).sort();
  if (!isDeepStrictEqual(there.sort(), expected))
    wrong.push(`of the snapshots ${expected} there are ${there}`);
  if (layers.length < told.length || (told.length + sandboxes === 0 && layers.length > 0))
    wrong.push(`${told.length} snapshots and ${sandboxes} sandboxes have ${layers.length} layers`);
  return wrong;
}

/** Asks again and again; what is still wrong at the end. */
export async function eventually(look: () => string[]): Promise<string[]> {
  const deadline = performance.now() + PATIENCE_MS;
  for (let pauseMs = 5; ; pauseMs = Math.min(pauseMs * 2, 200)) {
    const found = look();
    if (found.length === 0 || performance.now() > deadline) return found;
    await delay(pauseMs);
  }
}

function boxOf(info: SandboxInfo): Box {
  const { status, memory = 0, cmd, network_mode, network = {} } = info;
  const rules = network_mode === "open" ? JSON.stringify(network) : "";
  return { status: status as Box["status"], memory, hasMain: cmd !== undefined, rules };
}

async function checkRunning(
  world: World,
  { api }: EngineProcess,
  name: string,
  info: SandboxInfo,
): Promise<string[]> {
  const wrong: string[] = [];
  const said = (await api.exec(name, { cmd: ["echo", "here"], timeout: 20 })).stdout;
  if (said !== "here\n") wrong.push(`${name} does not run commands: ${said}`);
  const limit = (await api.stats(name)).memory_limit;
  // The kernel counts in pages.
  if (Math.abs(limit - (info.memory ?? 0)) >= 4096)
    wrong.push(`${name} may use ${limit} bytes, not ${info.memory}`);
  if (info.network_mode === "open") {
    const { stdout } = await api.exec(name, { cmd: ["perl", "-e", send, RULED], timeout: 20 });
    const expected = info.network?.allow?.includes(RULED) ? "yes" : "no";
    if (stdout !== expected)
      wrong.push(`${name} has other rules in force than ${JSON.stringify(info.network)}`);
  }
  const files = world.files.get(name) ?? new Map();
  const listed = await api.files.list(name, DATA).catch(() => []);
  const present = new Set(listed.map((file) => join(DATA, file.name)));
  for (const path of present) if (!files.has(path)) wrong.push(`${name} has ${path}, which nobody wrote`);
  for (const [path, possible] of [...files]) {
    const actual = present.has(path)
      ? (await readAll((await api.files.read(name, path)).body)).toString()
      : undefined;
    if (possible.includes(actual)) files.set(path, [actual]);
    else wrong.push(`${name}: ${path} holds ${actual?.length} bytes, which nobody wrote`);
  }
  wrong.push(
    ...(await eventually(() =>
      allPids()
        .filter((pid) => groupOf(pid).includes(info.id) && commandOf(pid).includes(MARK))
        .map((pid) => `${name}: a command of an engine that is gone still runs: ${commandOf(pid)}`),
    )),
  );
  return wrong;
}

function groupOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cgroup`, "utf8");
  } catch {
    return "";
  }
}

/** Main commands write "line 0", "line 1"… and then wait: each start's lines are whole, in order and once. */
async function checkLog({ api }: EngineProcess, name: string, hasGaps: boolean): Promise<string[]> {
  let text = "";
  for await (const { data } of api.logs(name)) text += Buffer.from(data).toString();
  const lines = text.split("\n");
  if (lines.pop() !== "") return [`the log of ${name} ends in the middle of a line`];
  let last = Number.NaN;
  for (const line of lines) {
    const number = Number(/^line (\d+) x*$/.exec(line)?.[1] ?? Number.NaN);
    // The first may be any: older ones were replaced.
    if (
      !(number === 0 || Number.isNaN(last) || number === last + 1 || (hasGaps && number > last)) ||
      Number.isNaN(number)
    ) {
      return [`the log of ${name} has ${JSON.stringify(line)} after line ${last}`];
    }
    last = number;
  }
  return [];
}
