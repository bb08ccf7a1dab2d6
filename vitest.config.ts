import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    globalSetup: ["test/setup/build.ts"],
    setupFiles: process.env.WARREN_PROPERTY_SECONDS ? ["test/setup/long-properties.ts"] : [],
    pool: "forks",
    // Most of the time of most tests is waiting.
    maxWorkers: 2,
    reporters: ["default"],
  },
});
