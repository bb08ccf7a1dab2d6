import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Backing, OpenBacking } from "./backing.ts";

// From bench/subjects/ as from dist/bench/.
const root = new URL("../../", import.meta.url);
/** The CLI itself, for Node. */
export const CLI = fileURLToPath(new URL("dist/cli/main.js", root));
/** What users call. */
export const FRONT = fileURLToPath(new URL("dist/cli/warren", root));
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
  /** Of what it makes its sandboxes with. */
  readonly name: string;
  readonly isSlow: boolean;
  unavailable(): Promise<string | undefined>;
  /** Starts it at the first call. */
  start(rootfs: string, scratch: string): Promise<void>;
  /** What its sandboxes are made of. */
  image(): string;
  url(): string;
  stateDir(): string;
  /** Of its process. */
  pid(): number;
  /** KiB that its objects and buffers take, without garbage. */
  usedKiB(): Promise<number>;
  startLagMonitor(): void;
  lag(): Promise<EventLoopLag>;
  stop(): Promise<void>;
}

interface Running {
  child: ChildProcess;
  url: string;
  stateDir: string;
  opened: OpenBacking;
}

/** Certificates of servers that sandboxes' secrets are for; it may come later than the engine. */
export const trustFileIn = (scratch: string) => join(scratch, "egress.crt");

export function warrenServer(backing: Backing): WarrenServer {
  let running: Promise<Running> | undefined;
  let current: Running | undefined;
  const state = () => {
    if (!current) throw new Error("start() comes first");
    return current;
  };

  async function launch(rootfs: string, scratch: string): Promise<Running> {
    const opened = await backing.open(rootfs, scratch);
    const stateDir = join(scratch, `warren-${backing.name}`);
    const child = spawn(
      process.execPath,
      [
        ...["--import", MONITOR, CLI, "serve", "--port", "0", "--json", "--log-level", "warn"],
        ...["--state-dir", stateDir, "--max-sandboxes", "5000", "--trust-file", trustFileIn(scratch)],
        ...opened.args,
      ],
      { stdio: ["ignore", "pipe", "inherit", "ipc"], env: { ...process.env, ...opened.env } },
    );
    const lines = createInterface(child.stdout as NodeJS.ReadableStream);
    const [line] = await Promise.race([
      once(lines, "line") as Promise<[string]>,
      once(child, "exit").then(([code]) => {
        throw new Error(`warren serve ended with code ${code}`);
      }),
    ]).catch(async (error: unknown) => {
      await opened.close?.();
      throw error;
    });
    return { child, url: (JSON.parse(line) as { url: string }).url, stateDir, opened };
  }

  return {
    name: backing.name,
    isSlow: backing.isSlow,
    unavailable: async () => backing.unavailable(),
    async start(rootfs, scratch) {
      running ??= launch(rootfs, scratch);
      current = await running;
    },
    image: () => state().opened.image,
    url: () => state().url,
    stateDir: () => state().stateDir,
    pid: () => state().child.pid as number,
    async usedKiB() {
      const answer = once(state().child, "message") as Promise<[{ usedKiB: number }]>;
      state().child.send("memory");
      return (await answer)[0].usedKiB;
    },
    startLagMonitor: () => void state().child.send("start"),
    async lag() {
      const answer = once(state().child, "message") as Promise<[EventLoopLag]>;
      state().child.send("stop");
      return (await answer)[0];
    },
    async stop() {
      if (!current) return;
      const { child, opened } = current;
      current = undefined;
      if (child.exitCode === null) {
        const exit = once(child, "exit");
        child.kill("SIGTERM");
        await exit;
      }
      await opened.close?.();
    },
  };
}
