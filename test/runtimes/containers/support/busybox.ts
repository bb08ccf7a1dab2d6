import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { PreparedImage } from "../../../../src/contracts/runtime.ts";
import type { TestEngine } from "./engines.ts";

/** A root filesystem with nothing but a static busybox and `sh`, as an uncompressed tar. */
export function busyboxTar(path: string): string {
  const root = mkdtempSync(join(tmpdir(), "wbusybox-"));
  mkdirSync(join(root, "bin"));
  copyFileSync("/bin/busybox", join(root, "bin/busybox"));
  symlinkSync("busybox", join(root, "bin/sh"));
  execFileSync("tar", ["-C", root, "-cf", path, "."]);
  rmSync(root, { recursive: true });
  return path;
}

/** An image of it. */
export async function importBusybox({ runtime, dir }: TestEngine): Promise<PreparedImage> {
  return await runtime.images.ensure(busyboxTar(join(dir, "busybox.tar")));
}
