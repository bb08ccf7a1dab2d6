import { z } from "zod";
import { WarrenError } from "../../contracts/errors.ts";
import { lastWords } from "../../lib/last-words.ts";
import { type RunOptions, type RunResult, run } from "../../lib/run.ts";

/** A machine may have to boot first. */
const DEFAULT_TIMEOUT_MS = 120_000;
const MAX_LIST_BYTES = 1 << 20;

const MachineList = z.array(z.object({ name: z.string(), state: z.string() }));

export interface OrbMachine {
  name: string;
  /** `running`, `stopped`, or one in between. */
  state: string;
}

/** OrbStack's command, and one of its machines. Every argument is passed as it is, to no shell of ours. */
export interface Orb {
  readonly machine: string;
  /** True while OrbStack itself runs. Throws `runtime_unavailable` when there is no orb command. */
  isRunning(): Promise<boolean>;
  machines(): Promise<OrbMachine[]>;
  /** Runs `orb` with these; `what` is what can't be done then. */
  command(args: readonly string[], what: string, timeoutMs?: number): Promise<void>;
  /** Runs a program in the machine. A code other than 0 is a result. */
  inside(argv: readonly string[], options?: InsideOptions): Promise<RunResult>;
  /** As `inside`, where a code other than 0 is a failure. */
  require(argv: readonly string[], what: string, options?: InsideOptions): Promise<string>;
}

export interface InsideOptions extends Pick<RunOptions, "timeoutMs" | "stdin"> {
  asRoot?: boolean;
  /** What helps, should it fail. */
  hint?: string;
}

/** What comes before a program that is to run in the machine. */
export const insideArgs = (machine: string, asRoot = false): string[] => [
  "-m",
  machine,
  ...(asRoot ? ["-u", "root"] : []),
];

export function createOrb(machine: string, environment: NodeJS.ProcessEnv): Orb {
  const env = Object.fromEntries(
    ["PATH", "HOME", "USER", "LOGNAME", "TMPDIR"].flatMap((name) =>
      environment[name] === undefined ? [] : [[name, environment[name] as string]],
    ),
  );
  const orb = async (args: readonly string[], options: RunOptions = {}): Promise<RunResult> => {
    try {
      return await run("orb", args, { timeoutMs: DEFAULT_TIMEOUT_MS, env, ...options });
    } catch (cause) {
      throw new WarrenError("runtime_unavailable", "OrbStack's command, orb, can't be run", {
        hint: "install OrbStack: brew install orbstack, or https://orbstack.dev/download",
        cause,
      });
    }
  };
  const inside: Orb["inside"] = (argv, { asRoot = false, hint: _, ...options } = {}) =>
    orb([...insideArgs(machine, asRoot), ...argv], options);
  return {
    machine,
    inside,
    async isRunning() {
      const { stdout } = await orb(["status"]);
      // It says "Stopped" otherwise, and other versions may say "not running".
      return /^running$/i.test(stdout.toString("utf8").trim());
    },
    async machines() {
      const what = "OrbStack's machines can't be listed";
      const result = await orb(["list", "-f", "json"], { maxOutputBytes: MAX_LIST_BYTES });
      if (result.code !== 0 || result.truncated) throw failed(what, result);
      const text = result.stdout.toString("utf8").trim();
      try {
        // Without any machine some versions say nothing.
        return text === "" ? [] : MachineList.parse(JSON.parse(text) ?? []);
      } catch (cause) {
        throw new WarrenError("runtime_unavailable", `${what}: orb list gives no list`, { cause });
      }
    },
    async command(args, what, timeoutMs = DEFAULT_TIMEOUT_MS) {
      const result = await orb(args, { timeoutMs });
      if (result.code !== 0) throw failed(what, result);
    },
    async require(argv, what, options = {}) {
      const result = await inside(argv, options);
      if (result.code !== 0) throw failed(what, result, options.hint);
      return result.stdout.toString("utf8").trim();
    },
  };
}

function failed(what: string, result: RunResult, hint?: string): WarrenError {
  const words = result.timedOut
    ? "it took too long"
    : lastWords(result.stderr.length > 0 ? result.stderr : result.stdout);
  return new WarrenError("runtime_unavailable", `${what}: ${words}`, hint === undefined ? {} : { hint });
}
