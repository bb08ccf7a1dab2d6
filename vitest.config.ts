import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // What anything may take on a machine that is busy: how long things take is no test's to judge.
    testTimeout: 60_000,
    hookTimeout: 120_000,
    expect: { poll: { timeout: 20_000 } },
    globalSetup: ["test/setup/build.ts"],
    setupFiles: process.env.WARREN_PROPERTY_SECONDS ? ["test/setup/long-properties.ts"] : [],
    pool: "forks",
    // One more than the processors that CI has: a third of most tests is waiting.
    maxWorkers: 3,
    reporters: ["default"],
  },
});
