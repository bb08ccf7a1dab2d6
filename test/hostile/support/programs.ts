import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { run } from "../../../src/lib/run.ts";

const sources = fileURLToPath(new URL("../programs/", import.meta.url));

/**
 * Compiles `programs/<name>.c` statically into `dir`, so that no attack depends on what an image holds.
 * musl-gcc comes without the kernel's headers; those of the distribution are searched last.
 */
export async function buildPrograms(dir: string, names: readonly string[]): Promise<void> {
  await mkdir(dir, { recursive: true });
  const multiarch = { x64: "x86_64-linux-gnu", arm64: "aarch64-linux-gnu" }[process.arch as string] ?? "";
  const compiler = existsSync("/usr/bin/musl-gcc")
    ? ["musl-gcc", "-idirafter", "/usr/include", "-idirafter", `/usr/include/${multiarch}`]
    : ["gcc"];
  const [program = "gcc", ...flags] = compiler;
  for (const name of names) {
    const args = ["-static", "-O1", "-s", "-Wall", "-Wextra", "-Werror", ...flags, "-o", join(dir, name)];
    const result = await run(program, [...args, join(sources, `${name}.c`)], { timeoutMs: 60_000 });
    if (result.code !== 0) throw new Error(`${name}.c does not compile:\n${result.stderr.toString()}`);
  }
}
