import { type SpawnOptions, spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

/** Absolute path of a program on PATH, or undefined. */
export function which(program: string): string | undefined {
  for (const dir of (process.env.PATH ?? "").split(delimiter)) {
    try {
      accessSync(join(dir, program), constants.X_OK);
      return join(dir, program);
    } catch {
      // not here
    }
  }
  return undefined;
}

/** Runs to the end; rejects with what it said when it fails. */
export function run(argv: readonly string[], options: SpawnOptions = {}): Promise<string> {
  const [program = "", ...args] = argv;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
    let out = "";
    let err = "";
    child.stdout?.on("data", (chunk) => {
      out += chunk;
    });
    child.stderr?.on("data", (chunk) => {
      err += chunk;
    });
    child.on("error", reject);
    child.on("close", (code) =>
      code === 0 ? resolve(out) : reject(new Error(`${argv.join(" ")}: exit ${code}: ${err.slice(-500)}`)),
    );
  });
}

/**
 * For a program that starts something in the background and ends, `crun run --detach` say: resolves once it has ended
 * well and the first byte of stdout, which the background process holds too, is there. stderr would be held as well, so
 * it goes nowhere.
 */
export async function detached(argv: readonly string[]): Promise<void> {
  const [program = "", ...args] = argv;
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "ignore"] });
  const first = once(child.stdout, "data");
  first.catch(() => {});
  const [code] = (await once(child, "exit")) as [number | null];
  if (code !== 0) throw new Error(`${argv.join(" ")}: exit ${code}`);
  await first;
  child.stdout.resume();
}
