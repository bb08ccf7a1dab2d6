import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { which } from "./process.ts";

// From bench/subjects/ as from dist/bench/.
const root = new URL("../../", import.meta.url);
export const CLI = fileURLToPath(new URL("dist/cli/main.js", root));
const MONITOR = new URL("bench/event-loop-monitor.mjs", root).href;

/** How long the engine's event loop was held up, in milliseconds, and the memory of its process. */
export interface EventLoopLag {
  p50: number;
  p99: number;
  max: number;
  rssMiB: number;
}

/** A `warren serve` of this run's own on a loopback port. Everything that Warren guards is on. */
export interface WarrenServer {
  readonly program: "crun" | "runc";
  unavailable(): Promise<string | undefined>;
  /** Starts it at the first call. */
  start(rootfs: string, scratch: string): Promise<void>;
  /** Directory that its sandboxes are made of. */
  image(): string;
  url(): string;
  stateDir(): string;
  startLagMonitor(): void;
  lag(): Promise<EventLoopLag>;
  stop(): Promise<void>;
}

export function warrenServer(program: "crun" | "runc"): WarrenServer {
  let running: Promise<{ child: ChildProcess; url: string; stateDir: string; image: string }> | undefined;
  let current: Awaited<NonNullable<typeof running>> | undefined;
  const state = () => {
    if (!current) throw new Error("start() comes first");
    return current;
  };

  async function launch(image: string, scratch: string) {
    const stateDir = join(scratch, `warren-${program}`);
    const child = spawn(
      process.execPath,
      [
        ...["--import", MONITOR, CLI, "serve", "--port", "0", "--json", "--log-level", "warn"],
        ...["--state-dir", stateDir, "--oci-program", program, "--max-sandboxes", "5000"],
      ],
      { stdio: ["ignore", "pipe", "inherit", "ipc"] },
    );
    const lines = createInterface(child.stdout as NodeJS.ReadableStream);
    const [line] = await Promise.race([
      once(lines, "line") as Promise<[string]>,
      once(child, "exit").then(([code]) => {
        throw new Error(`warren serve ended with code ${code}`);
      }),
    ]);
    return { child, url: (JSON.parse(line) as { url: string }).url, stateDir, image };
  }

  return {
    program,
    unavailable: async () => (which(program) ? undefined : `${program} is not installed`),
    async start(rootfs, scratch) {
      running ??= launch(rootfs, scratch);
      current = await running;
    },
    image: () => state().image,
    url: () => state().url,
    stateDir: () => state().stateDir,
    startLagMonitor: () => void state().child.send("start"),
    async lag() {
      const answer = once(state().child, "message") as Promise<[EventLoopLag]>;
      state().child.send("stop");
      return (await answer)[0];
    },
    async stop() {
      if (!current) return;
      const { child } = current;
      current = undefined;
      if (child.exitCode !== null) return;
      const exit = once(child, "exit");
      child.kill("SIGTERM");
      await exit;
    },
  };
}
