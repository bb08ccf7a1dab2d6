import { type ChildProcess, spawn } from "node:child_process";
import { endProcess, mainFile, until, type Workspace } from "./workspace.ts";

/** A `warren serve` on a free port. */
export interface Serving extends AsyncDisposable {
  child: ChildProcess;
  line: { url: string; socket: string; pid: number; auth: boolean; owns_engine: boolean };
  stdout(): string;
  stderr(): string;
  exit: Promise<number | null>;
}

/** Resolves when it is ready; disposing ends it. */
export async function serve(
  box: Workspace,
  args: string[] = [],
  env: Record<string, string> = {},
): Promise<Serving> {
  const child = spawn(process.execPath, [mainFile, "serve", "--port", "0", "--json", ...args], {
    env: { ...box.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let stdout = "";
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => {
    stdout += chunk.toString();
  });
  child.stderr.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const exit = new Promise<number | null>((resolve) => child.once("exit", resolve));
  await until(() => stdout.includes("\n") || child.exitCode !== null, "the server is ready");
  if (!stdout.includes("\n")) throw new Error(`the server ended: ${stderr}`);
  return {
    child,
    line: JSON.parse(stdout),
    stdout: () => stdout,
    stderr: () => stderr,
    exit,
    async [Symbol.asyncDispose]() {
      if (child.pid !== undefined) await endProcess(child.pid);
    },
  };
}
