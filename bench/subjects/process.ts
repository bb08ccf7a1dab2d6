import { type SpawnOptions, spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

/** Longest that a peer's program may take: what hangs must not hang the whole run. */
const TIMEOUT_MS = 60_000;

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

export interface RunOptions extends Pick<SpawnOptions, "env"> {
  stdin?: Uint8Array;
}

/** Runs to the end; resolves with the number of bytes of stdout, rejects with what stderr said when it fails. */
export function run(argv: readonly string[], { stdin, env }: RunOptions = {}): Promise<number> {
  const [program = "", ...args] = argv;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      stdio: [stdin ? "pipe" : "ignore", "pipe", "pipe"],
      timeout: TIMEOUT_MS,
      killSignal: "SIGKILL",
      ...(env ? { env } : {}),
    });
    let bytes = 0;
    let err = "";
    child.stdout?.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
    });
    child.stderr?.on("data", (chunk) => {
      err += chunk;
    });
    child.on("error", reject);
    child.on("close", (code, signal) =>
      code === 0
        ? resolve(bytes)
        : reject(new Error(`${argv.join(" ")}: ${signal ?? `exit ${code}`}: ${err.slice(-500)}`)),
    );
    child.stdin?.on("error", () => {}); // its end tells why
    child.stdin?.end(stdin);
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

/** Files of what has no file API: its way to run a command, and busybox's `cat`. `inside` begins such a command line. */
export function filesThrough(inside: readonly string[]) {
  return {
    write: async (path: string, bytes: Uint8Array): Promise<void> =>
      void (await run([...inside, "/bin/sh", "-c", 'cat > "$1"', "sh", path], { stdin: bytes })),
    read: (path: string): Promise<number> => run([...inside, "/bin/cat", path]),
  };
}
