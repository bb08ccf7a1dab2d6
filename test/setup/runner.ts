import { existsSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { pathToFileURL } from "node:url";
import { type RunnerTask, type RunnerTestSuite, TestRunner } from "vitest";

/** Vitest's own, but that it loads the bundled form of a test file (bundle.ts) where there is one. */
export default class BundleRunner extends TestRunner {
  override importFile(path: string, source: "collect" | "setup"): unknown {
    const files = process.env.WARREN_TEST_FILES;
    const { root } = this.config;
    const bundled = join(root, files ?? "", relative(root, path).replace(/\.ts$/, ".mjs"));
    if (source === "setup" || files === undefined || !existsSync(bundled))
      return super.importFile(path, source);
    // Node itself tells lines of the sources in traces, in place of Vite, which knows nothing of these files.
    process.setSourceMapsEnabled(true);
    delete (Error as Partial<typeof Error>).prepareStackTrace;
    return import(pathToFileURL(bundled).href);
  }

  override onAfterRunTask(test: RunnerTask): void {
    this.#showLines(test);
    super.onAfterRunTask(test);
  }

  override async onAfterRunSuite(suite: RunnerTestSuite): Promise<void> {
    this.#showLines(suite);
    await super.onAfterRunSuite(suite);
  }

  /** As Vitest does for files that Vite has read: the lines around the place that a trace begins with. */
  #showLines({ result }: RunnerTask): void {
    for (const error of result?.errors ?? []) {
      const [, path = "", line] = /(\/[^\s():]+\.ts):(\d+):\d+/.exec(error.stack ?? "") ?? [];
      if (!path.startsWith(this.config.root) || path.includes("/node_modules/") || !existsSync(path))
        continue;
      const at = Number(line);
      error.codeFrame ??= readFileSync(path, "utf8")
        .split("\n")
        .map((text, index) => `${index + 1 === at ? "  >" : "   "}${String(index + 1).padStart(4)}| ${text}`)
        .slice(Math.max(0, at - 3), at + 2)
        .join("\n");
    }
  }
}
