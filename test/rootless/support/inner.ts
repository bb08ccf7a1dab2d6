import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { TestUser } from "./user.ts";

interface Report {
  testResults: {
    message?: string;
    assertionResults: { fullName: string; status: string; failureMessages?: string[] | null }[];
  }[];
}

export interface InsideOptions {
  timeoutMs?: number;
  /** As of `TestUser.run`. */
  where?: readonly string[];
  env?: Record<string, string>;
  /** Ends of names of tests that only root can pass. Each must fail, so that the list can only shrink. */
  onlyRoot?: readonly string[];
}

/** Runs test files of `test/rootless/inside` as the user, and reports each of their tests as one of ours. */
export async function reportInside(
  user: TestUser,
  files: readonly string[],
  { timeoutMs = 300_000, onlyRoot = [], env = {}, ...place }: InsideOptions = {},
): Promise<void> {
  const output = join(user.home, "report.json");
  const vitest = [process.execPath, "node_modules/vitest/vitest.mjs", "run"];
  // The loader that writes no file beside the configuration.
  const config = ["--config", "test/rootless/inside/vitest.config.ts", "--configLoader", "runner"];
  const reporter = ["--reporter=json", `--outputFile=${output}`];
  // The bundled form of its files is the user's too.
  const { WARREN_TEST_FILES = "" } = process.env;
  const result = await user.run([...vitest, ...config, ...reporter, ...files], {
    timeoutMs,
    env: { ...(WARREN_TEST_FILES ? { WARREN_TEST_FILES } : {}), ...env },
    ...place,
  });
  const said = `${result.stdout}\n${result.stderr}`.slice(-8000);
  describe(`as an ordinary user (${files.join(", ")})`, () => {
    it("runs", () => {
      if (!existsSync(output)) throw new Error(`the tests did not run: ${said}`);
    });
    if (!existsSync(output)) return;
    const report = JSON.parse(readFileSync(output, "utf8")) as Report;
    for (const file of report.testResults) {
      if (file.message) {
        it("loads", () => {
          throw new Error(file.message);
        });
      }
      for (const test of file.assertionResults) {
        const failed = test.status !== "passed";
        if (onlyRoot.some((name) => test.fullName.endsWith(name))) {
          it(`${test.fullName} [only as root]`, () => expect(failed).toBe(true));
          continue;
        }
        const body = () => {
          if (failed) throw new Error(test.failureMessages?.join("\n") ?? test.status);
        };
        if (test.status === "skipped" || test.status === "pending") it.skip(test.fullName, body);
        else it(test.fullName, body);
      }
    }
  });
}
