import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { run } from "../../src/lib/run.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));
const minute = 60_000;

let out: string;
beforeAll(() => {
  out = mkdtempSync(join(tmpdir(), "warren-fuzz-"));
});
afterAll(() => rmSync(out, { recursive: true, force: true }));

it.each([
  "guest-files",
  "guest-spawn",
  "guest-users",
  "guest-tree",
  "guest-mux",
  "guest-dns",
  "guest-denied",
  "launcher",
])(
  "%s: the kept inputs and two seconds of new ones find nothing",
  async (target) => {
    const result = await run("bash", ["scripts/fuzz.sh", "--short", "--out", out, target], {
      cwd: root,
      timeoutMs: 5 * minute,
      maxOutputBytes: 1 << 20,
    });
    const said = `${result.stdout}\n${result.stderr}`;
    expect(result.code, said).toBe(0);
    expect(said).toMatch(/DONE +cov: \d+/);
  },
  6 * minute,
);
