import { type SignalName, signals } from "../contracts/constants.ts";
import { say } from "./output.ts";

const deadly = ["SIGINT", "SIGTERM", "SIGHUP"] as const satisfies SignalName[];

/**
 * Does what a signal can cancel. The first one fires the work's signal and is waited for; the second ends the process. Undefined when
 * it was cancelled: then our exit code says by which signal.
 */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T | undefined> {
  const stop = new AbortController();
  let code: number | undefined;
  const handlers = deadly.map((name) => {
    const handler = () => {
      if (code !== undefined) process.exit(code);
      code = 128 + signals[name];
      stop.abort();
    };
    process.on(name, handler);
    return { name, handler };
  });
  try {
    return await work(stop.signal);
  } catch (error) {
    if (code === undefined) throw error;
    await say("cancelled");
    process.exitCode = code;
    return undefined;
  } finally {
    for (const { name, handler } of handlers) process.off(name, handler);
  }
}
