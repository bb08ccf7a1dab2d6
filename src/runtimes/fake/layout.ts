import { readFileSync } from "node:fs";
import { rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { WarrenError } from "../../contracts/errors.ts";
import type { ProcessIdentity } from "../../lib/processes.ts";

/** Most bytes of a Unix socket's path: sun_path of unix(7), its final NUL excluded. */
const MAX_SOCKET_PATH = 107;

const ProcessIdentityFile = z.object({ pid: z.number().int(), startTime: z.number().int() });
const RunFile = z.object({
  /** The sandbox's first process, as the host numbers it. */
  guest: ProcessIdentityFile,
  /** bwrap itself, which waits for the guest. */
  monitor: ProcessIdentityFile,
});
export interface Run {
  guest: ProcessIdentity;
  monitor: ProcessIdentity;
}

/** Files of one sandbox. */
export interface Layout {
  dir: string;
  /** Its root filesystem. Written to by the sandbox: never opened by name from outside. */
  root: string;
  spec: string;
  /** Who ran last; absent when nobody ever did. */
  run: string;
  socket: string;
  /** What bwrap said when it started last. */
  startLog: string;
}

const ID = /^[a-z0-9-]{1,64}$/;

export function isSandboxId(name: string): boolean {
  return ID.test(name);
}

export function layoutOf(base: string, id: string): Layout {
  if (!isSandboxId(id)) throw new WarrenError("invalid_request", `${JSON.stringify(id)} is not a sandbox id`);
  const dir = join(base, id);
  return {
    dir,
    root: join(dir, "root"),
    spec: join(dir, "spec.json"),
    run: join(dir, "run.json"),
    socket: join(dir, "guest.sock"),
    startLog: join(dir, "start.log"),
  };
}

/** @throws WarrenError `invalid_request` when the kernel could not take the path of a sandbox's socket. */
export function checkPathLength(base: string): void {
  const longest = `${layoutOf(base, "x".repeat(16)).socket}.new`;
  if (Buffer.byteLength(longest) > MAX_SOCKET_PATH) {
    throw new WarrenError("invalid_request", `the state directory's path is too long: ${base}`, {
      hint: "choose a state directory with a shorter path",
    });
  }
}

/** undefined when it has never run, or the file can't be understood. */
export function readRun(layout: Layout): Run | undefined {
  try {
    return RunFile.parse(JSON.parse(readFileSync(layout.run, "utf8")));
  } catch {
    return undefined;
  }
}

/** Replaced whole, so that a crash leaves the old file or the new one. */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFile(`${path}.new`, JSON.stringify(value), { mode: 0o600 });
  await rename(`${path}.new`, path);
}
