import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

// From bench/phases/ as from dist/bench/.
const PROGRAM = fileURLToPath(new URL("../../bench/health-probe.mjs", import.meta.url));

export interface HealthProbe extends AsyncDisposable {
  /** How long each `GET /health` took, in milliseconds. */
  stop(): Promise<number[]>;
}

/** Asks the server how it is, again and again, from a process of its own: ours is busy with what it measures. */
export async function startHealthProbe(url: string): Promise<HealthProbe> {
  const child = fork(PROGRAM, [url], { execArgv: [] });
  const exited = once(child, "exit");
  await once(child, "message"); // it has begun
  return {
    async stop() {
      const answer = once(child, "message") as Promise<[number[]]>;
      child.send("stop");
      return (await answer)[0];
    },
    async [Symbol.asyncDispose]() {
      child.kill();
      await exited;
    },
  };
}
