import { defineConfig } from "vitest/config";
import { LongestFirst } from "./test/setup/order.ts";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // What anything may take on a machine that is busy; how long things take is no test's to judge.
    testTimeout: 60_000,
    hookTimeout: 120_000,
    expect: { poll: { timeout: 20_000 } },
    globalSetup: ["test/setup/build.ts"],
    setupFiles: process.env.WARREN_PROPERTY_SECONDS ? ["test/setup/long-properties.ts"] : [],
    runner: "test/setup/runner.ts",
    server: { deps: { external: [/\/dist\/test\//] } },
    sequence: { sequencer: LongestFirst },
    pool: "forks",
    // Twice the processors that CI has: much of most tests is waiting.
    maxWorkers: 4,
    reporters: ["default"],
  },
});
