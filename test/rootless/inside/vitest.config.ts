import { tmpdir } from "node:os";
import { join } from "node:path";
import { defineConfig } from "vitest/config";

/** For the tests that an ordinary user runs in a checkout that is read-only. */
export default defineConfig({
  cacheDir: join(tmpdir(), "vite"),
  test: {
    // Hostile suites that need nothing of root's to attack with.
    include: ["test/rootless/inside/*.inner.ts", "test/hostile/*.test.ts"],
    testTimeout: 60_000,
    hookTimeout: 120_000,
    expect: { poll: { timeout: 20_000 } },
    runner: "test/setup/runner.ts",
    server: { deps: { external: [/\/dist\/test\//] } },
    pool: "forks",
  },
});
