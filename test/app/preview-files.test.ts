import { mkdtempSync, readdirSync, rmSync, statSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { previewKey, previewListener } from "../../src/app/preview-files.ts";

function stateDir(): string {
  const dir = mkdtempSync(join(tmpdir(), "warren-preview-"));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  return dir;
}

it("keeps one key of its own for each state directory, for its owner alone", () => {
  const [one, other] = [stateDir(), stateDir()];
  const key = previewKey(one);
  expect(key).toHaveLength(32);
  expect(previewKey(one)).toEqual(key);
  expect(previewKey(other)).not.toEqual(key);
  expect(statSync(join(one, "preview.key")).mode & 0o777).toBe(0o600);
  expect(readdirSync(one)).toEqual(["preview.key"]);
  // Half a key, of a machine that lost its power, is none.
  truncateSync(join(one, "preview.key"), 10);
  expect(previewKey(one)).toHaveLength(32);
  expect(previewKey(one)).toEqual(previewKey(one));
});

it("remembers where previews were served", () => {
  const dir = stateDir();
  expect(previewListener(dir).port).toBe(0);
  previewListener(dir).onPort(43_210);
  expect(previewListener(dir).port).toBe(43_210);
});
