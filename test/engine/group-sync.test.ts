import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { createGroupSync } from "../../src/engine/group-sync.ts";
import { expectFailure } from "../../src/testing/failures.ts";

it("brings a file to disk, once for all who ask while it is busy", async () => {
  const dir = mkdtempSync(join(tmpdir(), "wgs-"));
  try {
    const path = join(dir, "file");
    const group = createGroupSync(path);
    await expectFailure(group.sync(), "internal");
    writeFileSync(path, "x");
    const first = group.sync();
    const later = [group.sync(), group.sync(), group.sync()];
    // What is under way may have passed what the later ones wrote.
    expect(new Set([first, ...later]).size).toBe(2);
    await Promise.all([first, ...later]);
    const again = group.sync();
    expect(later).not.toContain(again);
    await again;
    group.close();
    group.close();
  } finally {
    rmSync(dir, { recursive: true });
  }
});
