import { spawn } from "node:child_process";
import { once } from "node:events";
import { argvOf } from "./program.ts";

/** Runs crash-child.mjs until it says that it has got where it should be, kills it, and gives back what it said. */
export async function crash(stateDir: string, ...args: string[]): Promise<unknown> {
  const engine = spawn(process.execPath, [...argvOf("crash-child.mjs"), stateDir, ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let said = "";
  for await (const chunk of engine.stdout) {
    said += chunk;
    if (said.includes("\n")) break;
  }
  engine.kill("SIGKILL");
  if (engine.exitCode === null && engine.signalCode === null) await once(engine, "exit");
  return JSON.parse(said);
}
