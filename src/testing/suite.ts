import { describe, expect, it } from "vitest";
import { hurried } from "./wait.ts";

/** Tests that are known to fail, and why. Each must still fail: when it passes, the run turns red until it is struck off. */
export interface Deviation {
  reason: string;
  /** Names as the suite gives them, without the titles around them. */
  tests: readonly string[];
}

export interface SuiteOptions {
  deviations?: readonly Deviation[];
  /** Only these are run; each of the others is skipped under a name that says why. For a subject that is slow. */
  only?: { tests: readonly string[]; why: string };
}

/** Defines one test. `unless` names what the subject lacks: then it is skipped under a name that says so. */
export type DefineTest = (
  name: string,
  body: () => Promise<void>,
  options?: { timeoutMs?: number; unless?: string | false | undefined },
) => void;

/** A suite for any subject. Deviations that match no test, and names that are used twice, are errors. */
export function defineSuite(
  title: string,
  { deviations = [], only }: SuiteOptions,
  define: (test: DefineTest) => void,
): void {
  const expected = new Set(deviations.flatMap((deviation) => deviation.tests));
  const chosen = only && new Set(only.tests);
  const defined = new Set<string>();
  const twice = new Set<string>();
  describe(title, () => {
    define((name, body, { timeoutMs = 60_000, unless } = {}) => {
      if (defined.has(name)) twice.add(name);
      defined.add(name);
      if (unless) it.skip(`${name} [not possible here: ${unless}]`, () => {});
      else if (chosen && !chosen.has(name)) it.skip(`${name} [${only.why}]`, () => {});
      else if (expected.has(name)) it.fails(name, { timeout: timeoutMs }, () => hurried(body));
      else it(name, { timeout: timeoutMs }, body);
    });
    it("has a test for each listed deviation, and each name once", () => {
      expect([...expected, ...(chosen ?? [])].filter((name) => !defined.has(name))).toEqual([]);
      expect([...twice]).toEqual([]);
    });
  });
}
