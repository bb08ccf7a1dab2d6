// Prints what a Vitest JSON report says: each failed test with the first line of its error, and the totals.
import { readFileSync } from "node:fs";

const report = JSON.parse(readFileSync(process.argv[2], "utf8"));
const print = (line) => process.stdout.write(`${line}\n`);
for (const file of report.testResults) {
  const path = file.name.replace(/^.*\/(?=test\/)/, "");
  const failed = file.assertionResults.filter((test) => test.status === "failed");
  if (file.status === "failed" && failed.length === 0) print(`failed: ${path}: ${firstLine(file.message)}`);
  for (const test of failed)
    print(`failed: ${path}: ${test.fullName}: ${firstLine(test.failureMessages[0])}`);
}
const skipped = report.numPendingTests + report.numTodoTests;
print(
  `warren on cgroup v2: ${report.numPassedTests} passed, ${report.numFailedTests} failed, ${skipped} skipped`,
);

function firstLine(text) {
  return (text ?? "no message").trim().split("\n")[0];
}
