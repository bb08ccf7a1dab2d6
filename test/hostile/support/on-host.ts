import { spawn } from "node:child_process";

/** A program that runs on the host until it is stopped; it must print a line once it is ready. */
export async function startOnHost(
  program: string,
  args: readonly string[],
): Promise<Disposable & { stop(): Promise<void> }> {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  await new Promise<void>((resolve, reject) => {
    child.stdout.once("data", () => resolve());
    child.once("error", reject);
    child.once("close", () => reject(new Error(`${program} ended at once`)));
  });
  child.stdout.resume();
  return {
    async stop() {
      child.kill("SIGKILL");
      await ended;
    },
    [Symbol.dispose]: () => void child.kill("SIGKILL"),
  };
}
