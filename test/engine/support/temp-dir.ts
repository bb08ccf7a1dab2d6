import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A directory of its own, removed when disposed. Its path is short: Unix sockets are made in it. */
export function tempDir(): Disposable & { path: string } {
  const path = mkdtempSync(join(tmpdir(), "warren-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}
