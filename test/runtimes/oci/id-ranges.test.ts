import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { IDS_PER_SANDBOX, openIdRanges } from "../../../src/runtimes/oci/id-ranges.ts";

describe("id ranges", () => {
  let base = "";
  beforeEach(() => {
    base = mkdtempSync(join(tmpdir(), "woci-ids-"));
  });
  afterEach(() => rmSync(base, { recursive: true, force: true }));

  const open = (name: string) => {
    const owner = join(base, name);
    mkdirSync(owner, { recursive: true });
    return openIdRanges({ owner, claimsDir: join(base, "run", "ids") });
  };

  it("are never shared, within an engine or between engines that claim at once", async () => {
    const engines = await Promise.all(["a", "b", "c"].map(open));
    const taken = await Promise.all(
      engines.flatMap((engine) => Array.from({ length: 100 }, (_, i) => engine.take(`box${i}`))),
    );
    expect(new Set(taken).size).toBe(300);
    for (const first of taken) {
      expect(first % IDS_PER_SANDBOX).toBe(0);
      expect(first).toBeGreaterThanOrEqual(0x7000_0000);
      expect(first + IDS_PER_SANDBOX).toBeLessThanOrEqual(0x7fff_0000);
    }
  });

  it("are kept by a sandbox until released, and used again then", async () => {
    const ranges = await open("a");
    const first = await ranges.take("one");
    expect(await ranges.take("one")).toBe(first);
    expect(await ranges.take("two")).not.toBe(first);
    ranges.release("one");
    expect(await ranges.take("three")).toBe(first);
  });

  it("of sandboxes that outlived their engine are not handed out again", async () => {
    const before = await open("a");
    const first = await before.take("one");
    await before.close();
    const after = await open("a");
    await after.adopt("one", first);
    expect(await after.take("two")).not.toBe(first);
    expect(await (await open("b")).take("three")).not.toBe(first);
  });

  it("are given back at a close, unless one is in use", async () => {
    const ranges = await open("a");
    await ranges.take("one");
    await ranges.close();
    expect(readdirSync(join(base, "run", "ids"))).toHaveLength(1);
    ranges.release("one");
    await ranges.close();
    expect(existsSync(join(base, "run"))).toBe(false);
  });

  it("of a state directory that is gone are used again, by one engine only", async () => {
    const gone = await open("gone");
    await gone.take("one");
    rmSync(join(base, "gone"), { recursive: true });
    // Fill all other blocks, so that the stale one is the only one left.
    const greedy = await open("greedy");
    let taken = 0;
    const last = await (async () => {
      for (;;) {
        try {
          await greedy.take(`box${taken}`);
          taken++;
        } catch (error) {
          return error;
        }
      }
    })();
    expect(last).toMatchObject({ code: "too_many_sandboxes" });
    expect(taken).toBeGreaterThan(3900);
    expect(readdirSync(join(base, "run", "ids"))).toContain("0.1");
  });
});
