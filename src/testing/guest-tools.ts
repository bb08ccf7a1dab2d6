import type { RuntimeSpec } from "../contracts/runtime.ts";
import type { GuestClient, GuestExit, SpawnRequest } from "../guest/types.ts";

export interface CommandResult extends GuestExit {
  stdout: string;
  stderr: string;
}

/** Runs a command to its end and keeps all of its output: for commands of a test, which know when to stop. */
export async function runInside(
  guest: GuestClient,
  argv: readonly string[],
  request: Partial<SpawnRequest> & { input?: string } = {},
): Promise<CommandResult> {
  const { input, ...rest } = request;
  const session = await guest.spawn({ argv, env: {}, ...rest, stdin: input !== undefined });
  await using _ = session;
  if (input !== undefined) {
    await session.write(Buffer.from(input));
    await session.end();
  }
  const chunks = { stdout: [] as Uint8Array[], stderr: [] as Uint8Array[] };
  for await (const { stream, data } of session.output) chunks[stream].push(data);
  return {
    ...(await session.exit),
    stdout: Buffer.concat(chunks.stdout).toString("utf8"),
    stderr: Buffer.concat(chunks.stderr).toString("utf8"),
  };
}

/** As above with `sh -c`; `args` become $1 and so on. */
export async function shellInside(
  guest: GuestClient,
  script: string,
  request: Partial<SpawnRequest> & { input?: string; args?: readonly string[] } = {},
): Promise<CommandResult> {
  const { args = [], ...rest } = request;
  return await runInside(guest, ["sh", "-c", script, "sh", ...args], rest);
}

export async function readAll(body: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of body) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Command lines of all processes inside, as the sandbox's own /proc shows them. */
export async function commandLinesInside(guest: GuestClient): Promise<string[]> {
  const script = 'for f in /proc/[0-9]*/cmdline; do tr "\\0" " " <"$f" 2>/dev/null && echo; done; :';
  return (await shellInside(guest, script)).stdout.split("\n").filter((line) => line !== "");
}

export const noLimits: RuntimeSpec["limits"] = { memoryBytes: 0, cpuNano: 0, pids: 0 };
