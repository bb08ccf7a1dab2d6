import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { createNodeClient } from "../../../src/client/node/index.ts";
import type { SandboxApi } from "../../../src/contracts/api.ts";
import { removeState } from "../../../src/runtimes/oci/remove-state.ts";
import type { Lab } from "./lab.ts";

const mainFile = fileURLToPath(new URL("../../../dist/cli/main.js", import.meta.url));

export interface LabEngine {
  api: SandboxApi;
  stateDir: string;
  pid: number;
  /** As a crash would. */
  kill(): Promise<void>;
  /** After `kill`. */
  start(): Promise<void>;
  /** Removes all sandboxes first. */
  close(): Promise<void>;
}

/** `warren serve` on the lab's host. */
export async function serveInLab(
  lab: Lab,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<LabEngine> {
  const stateDir = mkdtempSync(join(tmpdir(), "wnet-"));
  const launch = async () => {
    const argv = [...lab.onHost.slice(1), process.execPath, mainFile, "serve"];
    const settings = ["--state-dir", stateDir, "--port", "0", "--json", "--log-level", "warn", ...args];
    const child = spawn(lab.onHost[0] as string, [...argv, ...settings], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { PATH: process.env.PATH, HOME: stateDir, ...env },
    });
    let said = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      said = (said + text).slice(-10_000);
    });
    const exit = once(child, "exit");
    await Promise.race([
      once(createInterface({ input: child.stdout }), "line"),
      exit.then(() => {
        throw new Error(`the engine ended: ${said}`);
      }),
    ]);
    return { child, exit };
  };
  let running = await launch();
  const api = createNodeClient({ url: `unix:${join(stateDir, "engine.sock")}` });
  const end = async (signal: NodeJS.Signals) => {
    running.child.kill(signal);
    await running.exit;
  };
  return {
    api,
    stateDir,
    get pid() {
      return running.child.pid as number;
    },
    kill: () => end("SIGKILL"),
    async start() {
      running = await launch();
    },
    async close() {
      for (const { id } of await api.list()) await api.remove(id);
      await end("SIGTERM");
      await removeState(stateDir);
    },
  };
}
