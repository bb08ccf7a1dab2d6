import { randomBytes } from "node:crypto";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const KEY_BYTES = 32;

/**
 * The secret that preview links of this state directory are signed with, made when there is none. Links stay good over restarts;
 * who removes the file takes all of them back. For whoever has the engine, or comes after it has begun to listen: they never make
 * one at the same time.
 */
export function previewKey(stateDir: string): Buffer {
  const path = join(stateDir, "preview.key");
  const known = read(path);
  if (known) return known;
  const key = randomBytes(KEY_BYTES);
  // Whole or not at all.
  writeFileSync(`${path}.new`, key, { mode: 0o600 });
  renameSync(`${path}.new`, path);
  return key;
}

/** The port of the listener for previews is the same after a restart where it can be: people have links that name it. */
export function previewListener(stateDir: string): { port: number; onPort(port: number): void } {
  const path = join(stateDir, "preview.port");
  const text = existsSync(path) ? readFileSync(path, "utf8").trim() : "";
  return {
    port: /^\d{1,5}$/.test(text) && Number(text) <= 65_535 ? Number(text) : 0,
    onPort: (port) => writeFileSync(path, `${port}\n`, { mode: 0o600 }),
  };
}

function read(path: string): Buffer | undefined {
  try {
    const key = readFileSync(path);
    return key.length === KEY_BYTES ? key : undefined;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
