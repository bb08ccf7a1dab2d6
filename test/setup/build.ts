import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { TestProject } from "vitest/node";
import { bundleTests } from "./bundle.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));

/**
 * Vitest's globalSetup: the tests of the command line run the built one, so build it when a source is newer. The tests themselves are
 * bundled anew, for runner.ts; not where vitest watches, since it would not see that a source has changed.
 */
export default async function setup({ config }: TestProject): Promise<(() => void) | undefined> {
  const built = `${root}dist/cli/main.js`;
  const sources = ["src", "scripts/build.mjs", "package.json"].map((path) => newest(`${root}${path}`));
  if (!existsSync(built) || statSync(built).mtimeMs < Math.max(...sources)) {
    execFileSync(process.execPath, [`${root}scripts/build.mjs`, "--cli"], { stdio: "inherit" });
  }
  if (config.watch) return undefined;
  const files = await bundleTests(root);
  process.env.WARREN_TEST_FILES = files;
  return () => rmSync(join(root, files), { recursive: true, force: true });
}

/** Latest change of a file, or of anything below a directory; milliseconds since the epoch. */
function newest(path: string): number {
  const found = statSync(path);
  if (!found.isDirectory()) return found.mtimeMs;
  return Math.max(found.mtimeMs, ...readdirSync(path).map((name) => newest(`${path}/${name}`)));
}
