import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Runs the fixture's suite; the status of each test by name. */
async function outcome(
  deviations: string[],
  env: Record<string, string> = {},
): Promise<Record<string, string>> {
  const args = [
    "node_modules/vitest/vitest.mjs",
    "run",
    "--config",
    "test/testing/fixtures/vitest.config.mjs",
  ];
  const stdout = await new Promise<string>((resolve) => {
    const list = JSON.stringify([{ reason: "the test wants it", tests: deviations }]);
    const options = { cwd: root, env: { PATH: process.env.PATH, DEVIATIONS: list, ...env } };
    // Its exit code says that tests failed, which is what is looked for.
    execFile(process.execPath, [...args, "--reporter=json"], options, (_, out) => resolve(out));
  });
  const report = JSON.parse(stdout) as {
    testResults: { assertionResults: { title: string; status: string }[] }[];
  };
  return Object.fromEntries(
    report.testResults.flatMap((file) => file.assertionResults).map(({ title, status }) => [title, status]),
  );
}

const books = "has a test for each listed deviation, and each name once";

it("takes a listed deviation that fails, and names what is skipped", { timeout: 60_000 }, async () => {
  expect(await outcome(["can't"])).toEqual({
    can: "passed",
    "can't": "passed",
    "is not asked [not possible here: wings]": "skipped",
    [books]: "passed",
  });
});

it("turns red for a failure that is not listed, and for a listed one that passes", {
  timeout: 60_000,
}, async () => {
  expect(await outcome([])).toMatchObject({ can: "passed", "can't": "failed" });
  expect(await outcome(["can", "can't"])).toMatchObject({ can: "failed", "can't": "passed" });
});

it("turns red for a listed name that no test has, and for a name used twice", {
  timeout: 60_000,
}, async () => {
  expect(await outcome(["can't", "could"])).toMatchObject({ [books]: "failed" });
  expect(await outcome(["can't"], { TWICE: "1" })).toMatchObject({ [books]: "failed" });
});
