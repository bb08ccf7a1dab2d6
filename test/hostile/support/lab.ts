import { randomBytes } from "node:crypto";
import { chmod, cp, mkdir, mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ExecRequest, ExecResult } from "../../../src/contracts/exec.ts";
import type { CreateSandbox } from "../../../src/contracts/sandbox.ts";
import { type Engine, openEngine } from "../../../src/engine/engine.ts";
import { silentLogger } from "../../../src/lib/log.ts";
import { type RunResult, run } from "../../../src/lib/run.ts";
import { removeState } from "../../../src/runtimes/oci/remove-state.ts";
import { openOciRuntime } from "../../../src/runtimes/oci/runtime.ts";
import type { RunResult as UserRunResult } from "../../rootless/support/user.ts";
import { leftovers } from "./leftovers.ts";
import { buildPrograms } from "./programs.ts";

/** Where attack programs lie inside. */
export const ATTACKS = "/attack";
/** Longest that any single attack may take, in seconds, unless its test says otherwise. */
const ATTACK_TIMEOUT_S = 20;

/** A real engine over the real `oci` runtime in a temporary directory, with compiled attack programs. */
export interface Lab extends AsyncDisposable {
  readonly dir: string;
  readonly stateDir: string;
  readonly ownerId: string;
  readonly engine: Engine;
  /** A root filesystem with nothing in it but users, empty directories, and the attack programs in `ATTACKS`. */
  readonly image: string;
  /** Host path of a compiled attack program. */
  program(name: string): string;
  /** A running sandbox of `image`; its id. */
  sandbox(request?: Partial<CreateSandbox>): Promise<string>;
  /** Runs an attack program inside. */
  attack(
    id: string,
    name: string,
    args?: readonly string[],
    options?: Omit<ExecRequest, "cmd">,
  ): Promise<ExecResult>;
  /** The same program on the host, without any guard. Only for programs that harm nothing there. */
  onHost(name: string, args?: readonly string[], options?: { cwd?: string }): Promise<RunResult>;
}

export async function openLab(options: {
  programs: readonly string[];
  /** Default: the runtime's own choice. */
  ociProgram?: "crun" | "runc";
  /** How the engine looks names up. */
  resolve?: (name: string) => Promise<string[]>;
}): Promise<Lab> {
  const dir = await mkdtemp(join(tmpdir(), "warren-hostile-"));
  const stateDir = join(dir, "state");
  const ownerId = `hostile${randomBytes(4).toString("hex")}`;
  const programs = join(dir, "programs");
  await buildPrograms(programs, options.programs);
  const image = join(dir, "image");
  await makeImage(image, programs);
  await mkdir(stateDir, { mode: 0o700 });
  const log = silentLogger;
  const { ociProgram } = options;
  const runtime = await openOciRuntime({ stateDir, ownerId, log, ...(ociProgram ? { ociProgram } : {}) });
  const engine = await openEngine({
    stateDir,
    runtimes: { oci: runtime },
    defaultRuntime: "oci",
    log,
    ...(options.resolve ? { resolve: options.resolve } : {}),
    // An ordinary user has no cgroups unless root prepared some.
    config: process.getuid?.() === 0 ? {} : { defaultMemoryBytes: 0, defaultPids: 0 },
  });

  return {
    dir,
    stateDir,
    ownerId,
    engine,
    image,
    program: (name) => join(programs, name),
    sandbox: async (request = {}) => (await engine.create({ image, timeout: 600, ...request })).id,
    attack: (id, name, args = [], request = {}) =>
      engine.exec(id, { timeout: ATTACK_TIMEOUT_S, ...request, cmd: [`${ATTACKS}/${name}`, ...args] }),
    onHost: (name, args = [], { cwd = dir } = {}) =>
      run(join(programs, name), args, { cwd, timeoutMs: ATTACK_TIMEOUT_S * 1000, maxOutputBytes: 1 << 20 }),
    async [Symbol.asyncDispose]() {
      const failures: unknown[] = [];
      for (const { id } of await engine.list()) {
        await engine.remove(id).catch((error: unknown) => failures.push(error));
      }
      await engine.close({ stopSandboxes: true });
      const left = await leftovers(ownerId, stateDir);
      await removeState(dir);
      if (failures.length > 0 || left.length > 0) {
        throw new AggregateError(failures, `left behind: ${left.join(", ")}`);
      }
    },
  };
}

async function makeImage(root: string, programs: string): Promise<void> {
  for (const path of ["etc", "tmp", "root", "home/mallory", "usr/bin"]) {
    await mkdir(join(root, path), { recursive: true });
  }
  await chmod(join(root, "tmp"), 0o1777);
  await chmod(join(root, "home/mallory"), 0o777);
  await writeFile(
    join(root, "etc/passwd"),
    "root:x:0:0:root:/root:/bin/sh\nmallory:x:1000:1000::/home/mallory:/bin/sh\n",
  );
  await writeFile(join(root, "etc/group"), "root:x:0:\nmallory:x:1000:\n");
  await cp(programs, join(root, ATTACKS), { recursive: true });
}

/** How an attack program ended: inside, on the host, or through the command line. */
type Ended = ExecResult | RunResult | UserRunResult;

/** Standard output of an attack that ended with code 0. */
export function outputOf(result: Ended): string {
  const code = "exit_code" in result ? result.exit_code : result.code;
  if (code !== 0) throw new Error(`the attack program failed with ${code}: ${result.stderr.toString()}`);
  return result.stdout.toString();
}

/** `name outcome` lines of programs that use probe.h. An outcome is `ok`, `E<errno>`, `signal<number>` or a word. */
export function outcomesOf(result: Ended): Map<string, string> {
  const lines = outputOf(result).split("\n").filter(Boolean);
  return new Map(
    lines.map((line) => {
      const at = line.lastIndexOf("\t");
      return [line.slice(0, at), line.slice(at + 1)];
    }),
  );
}
