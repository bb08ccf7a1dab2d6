import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));

/** Vitest's globalSetup: the tests of the command line run the built one, so build it when a source is newer. */
export default function setup(): void {
  const built = `${root}dist/cli/main.js`;
  const sources = ["src", "scripts/build.mjs", "package.json"].map((path) => newest(`${root}${path}`));
  if (!existsSync(built) || statSync(built).mtimeMs < Math.max(...sources)) {
    execFileSync(process.execPath, [`${root}scripts/build.mjs`, "--cli"], { stdio: "inherit" });
  }
}

/** Latest change of a file, or of anything below a directory; milliseconds since the epoch. */
function newest(path: string): number {
  const found = statSync(path);
  if (!found.isDirectory()) return found.mtimeMs;
  return Math.max(found.mtimeMs, ...readdirSync(path).map((name) => newest(`${path}/${name}`)));
}
