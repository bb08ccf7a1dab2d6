import { realpathSync } from "node:fs";
import { mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { ExecSession } from "../../src/contracts/exec.ts";
import { type Canary, plantCanary } from "./support/canary.ts";
import { ATTACKS, type Lab, openLab, outputOf } from "./support/lab.ts";
import { raceCalls, raceTimeoutMs } from "./support/long.ts";
import { startOnHost } from "./support/on-host.ts";

/** Calls at one time. */
const SIDE_BY_SIDE = 8;

let lab: Lab;
let sandbox: string;
let canary: Canary;

beforeAll(async () => {
  lab = await openLab({ programs: ["racer", "links", "cat"] });
  sandbox = await lab.sandbox();
  canary = await plantCanary(join(lab.dir, "canary"));
});
afterAll(() => lab?.[Symbol.asyncDispose]());

async function readAll(path: string): Promise<string> {
  const { body } = await lab.engine.files.read(sandbox, path);
  let text = "";
  for await (const chunk of body) text += Buffer.from(chunk).toString();
  return text;
}

/** Every call of the files API, on something below `dir`. `i` varies the names. */
function calls(dir: string): ((i: number) => Promise<unknown>)[] {
  const { files } = lab.engine;
  const bytes = Buffer.from("mine");
  return [
    () => readAll(`${dir}/secret`),
    (i) => files.write(sandbox, `${dir}/w${i % 16}`, bytes),
    () => files.write(sandbox, `${dir}/secret`, bytes, { parents: false }),
    () => files.write(sandbox, `${dir}/secret`, bytes, { append: true }),
    () => files.stat(sandbox, `${dir}/secret`),
    () => files.list(sandbox, dir),
    (i) => files.mkdir(sandbox, `${dir}/sub/m${i % 16}/n`),
    () => files.chmod(sandbox, `${dir}/secret`, 0o777),
    (i) => files.rename(sandbox, `${dir}/w${i % 16}`, `${dir}/secret`),
    () => files.rename(sandbox, `${dir}/secret`, `${dir}/sub/moved`),
    (i) => files.remove(sandbox, `${dir}/sub/m${i % 16}`),
    () => files.remove(sandbox, `${dir}/secret`),
    async () => {
      const signal = AbortSignal.timeout(5);
      for await (const { path } of files.watch(sandbox, dir, { recursive: true, signal })) return path;
      return undefined;
    },
  ];
}

/** What came of many calls, each counted once by the code of its error or `ok`. A token in any answer throws. */
async function callMany(count: number, dir: string): Promise<Map<string, number>> {
  const outcomes = new Map<string, number>();
  const list = calls(dir);
  let next = 0;
  const worker = async () => {
    while (next < count) {
      const i = next++;
      const call = list[i % list.length] as (i: number) => Promise<unknown>;
      const outcome = await call(Math.floor(i / list.length)).then(
        (value) => {
          if (JSON.stringify(value ?? "").includes(canary.token))
            throw new Error(`call ${i} gave the host's secret`);
          return "ok";
        },
        (error: unknown) => {
          if (!(error instanceof WarrenError)) throw error;
          return error.code;
        },
      );
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }
  };
  await Promise.all(Array.from({ length: SIDE_BY_SIDE }, worker));
  return outcomes;
}

async function startRacer(a: string, b: string): Promise<{ session: ExecSession; output: Promise<string> }> {
  const session = await lab.engine.execStream(sandbox, { cmd: [`${ATTACKS}/racer`, a, b] });
  return {
    session,
    output: (async () => {
      let text = "";
      for await (const { data } of session.output) text += Buffer.from(data).toString();
      return text;
    })(),
  };
}

describe.each([
  ["a directory of the host", () => canary.dir],
  ["the same by way of PID 1's root", () => `/proc/1/root${canary.dir}`],
  ["the same by way of one's own root", () => `/proc/self/root${canary.dir}`],
])("a parent directory that becomes a link to %s and back, during the call", (_, target) => {
  it(
    `never leads there, in ${raceCalls} calls of every kind`,
    async () => {
      const before = await canary.state();
      const { files } = lab.engine;
      await files.mkdir(sandbox, "/race/p/sub");
      await files.write(sandbox, "/race/p/secret", Buffer.from("inside"));
      outputOf(await lab.attack(sandbox, "links", [target(), "/race/q"]));
      const racer = await startRacer("/race/p", "/race/q");
      const outcomes = await callMany(raceCalls, "/race/p");
      await racer.session.signal("SIGTERM");
      const swaps = Number(/swaps (\d+)/.exec(await racer.output)?.[1]);

      expect(await canary.state()).toEqual(before);
      expect(outcomes.get("internal")).toBeUndefined();
      expect(outcomes.get("guest_failed")).toBeUndefined();
      // The race was one: both sides came to their turn often.
      expect(swaps).toBeGreaterThan(100);
      expect(outcomes.get("ok")).toBeGreaterThan(10);
      outputOf(await lab.attack(sandbox, "cat", ["/etc/passwd"]));
      await files.remove(sandbox, "/race");
    },
    raceTimeoutMs,
  );
});

it(
  "a file that becomes a link to a file of the host and back never leads there",
  async () => {
    const before = await canary.state();
    const { files } = lab.engine;
    await files.mkdir(sandbox, "/race/sub");
    await files.write(sandbox, "/race/other", Buffer.from("inside"));
    outputOf(await lab.attack(sandbox, "links", [canary.file, "/race/secret"]));
    const racer = await startRacer("/race/secret", "/race/other");
    const outcomes = await callMany(raceCalls, "/race");
    await racer.session.signal("SIGTERM");
    await racer.output;
    expect(await canary.state()).toEqual(before);
    expect(outcomes.get("internal")).toBeUndefined();
    expect(outcomes.get("guest_failed")).toBeUndefined();
    await files.remove(sandbox, "/race");
  },
  raceTimeoutMs,
);

it("without the guard, a host that checks the path and then opens it is had", async () => {
  const root = join(lab.dir, "naive");
  await mkdir(join(root, "p"), { recursive: true });
  await writeFile(join(root, "p", "secret"), "inside");
  await symlink(canary.dir, join(root, "q"));
  using racer = await startOnHost(lab.program("racer"), [join(root, "p"), join(root, "q")]);
  let text = "";
  const until = Date.now() + 45_000;
  while (text !== canary.token && Date.now() < until) {
    const path = join(root, "p", "secret");
    try {
      if (realpathSync(path).startsWith(`${root}/`)) text = await readFile(path, "utf8");
    } catch {
      // It was a link in that moment, as the check says.
    }
  }
  expect(text).toBe(canary.token);
  await racer.stop();
  await rm(root, { recursive: true });
});
