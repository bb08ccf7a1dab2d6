import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A root filesystem directory with nothing but a static busybox and `sh`. */
export function busyboxRoot(): { path: string } & Disposable {
  const path = mkdtempSync(join(tmpdir(), "woci-root-"));
  mkdirSync(join(path, "bin"));
  copyFileSync("/bin/busybox", join(path, "bin/busybox"));
  symlinkSync("busybox", join(path, "bin/sh"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}
