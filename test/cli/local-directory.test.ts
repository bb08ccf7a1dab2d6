import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { staysInside } from "../../src/cli/copy/download.ts";
import { openLocalDirectory } from "../../src/cli/copy/local-directory.ts";

let base: string;
let inside: string;
let outside: string;
beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), "warren-cp-"));
  inside = join(base, "inside");
  outside = join(base, "outside");
  mkdirSync(inside);
  mkdirSync(outside);
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

async function* bytes(text: string): AsyncIterable<Uint8Array> {
  yield Buffer.from(text);
}

describe("a directory that a sandbox's names are written to", () => {
  it.each(["", ".", "..", "../outside/x", "a/b", "/etc/passwd", "nul\0"])(
    "refuses the name %j",
    async (name) => {
      await using directory = await openLocalDirectory(inside);
      const refused = expect.objectContaining({ code: "invalid_path" });
      await expect(directory.writeFile(name, bytes("x"), 0o644)).rejects.toEqual(refused);
      await expect(directory.directory(name)).rejects.toEqual(refused);
      await expect(directory.link(name, "x")).rejects.toEqual(refused);
      expect(readdirSync(outside)).toEqual([]);
    },
  );

  it("does not follow a link that stands where a directory is to be", async () => {
    symlinkSync(outside, join(inside, "d"));
    await using directory = await openLocalDirectory(inside);
    await expect(directory.directory("d")).rejects.toEqual(expect.objectContaining({ code: "file_exists" }));
  });

  it("replaces a link instead of writing through it", async () => {
    writeFileSync(join(outside, "victim"), "whole");
    symlinkSync(join(outside, "victim"), join(inside, "f"));
    await using directory = await openLocalDirectory(inside);
    await directory.writeFile("f", bytes("new"), 0o4755);
    expect(readFileSync(join(outside, "victim"), "utf8")).toBe("whole");
    expect(readFileSync(join(inside, "f"), "utf8")).toBe("new");
    // Without the set-user-ID bit.
    expect(lstatSync(join(inside, "f")).mode & 0o7777).toBe(0o755);
  });

  it.runIf(process.platform === "linux")(
    "stays in the directory it opened when that is swapped for a link [needs Linux]",
    async () => {
      await using directory = await openLocalDirectory(inside);
      await using child = await directory.directory("d");
      renameSync(join(inside, "d"), join(inside, "moved"));
      symlinkSync(outside, join(inside, "d"));
      await child.writeFile("f", bytes("x"), 0o644);
      expect(readdirSync(outside)).toEqual([]);
      expect(readdirSync(join(inside, "moved"))).toEqual(["f"]);
    },
  );

  it("leaves nothing and changes nothing when a transfer breaks", async () => {
    writeFileSync(join(inside, "f"), "old");
    async function* broken(): AsyncIterable<Uint8Array> {
      yield Buffer.from("half");
      throw new Error("lost");
    }
    await using directory = await openLocalDirectory(inside);
    await expect(directory.writeFile("f", broken(), 0o644)).rejects.toThrow("lost");
    expect(readdirSync(inside)).toEqual(["f"]);
    expect(readFileSync(join(inside, "f"), "utf8")).toBe("old");
  });

  it("replaces links but nothing else by links", async () => {
    writeFileSync(join(inside, "file"), "");
    await using directory = await openLocalDirectory(inside);
    await directory.link("l", "a");
    await directory.link("l", "b");
    expect(readlinkSync(join(inside, "l"))).toBe("b");
    await expect(directory.link("file", "a")).rejects.toEqual(
      expect.objectContaining({ code: "file_exists" }),
    );
  });

  it("sets modes of directories last and without special bits", async () => {
    await using directory = await openLocalDirectory(inside);
    await using child = await directory.directory("d");
    await child.setMode(0o7555);
    expect(statSync(join(inside, "d")).mode & 0o7777).toBe(0o555);
  });
});

describe("links of a downloaded tree", () => {
  it.each([
    ["sibling", 0, true],
    ["./a/b", 0, true],
    ["../x", 1, true],
    ["../../x", 2, true],
    ["..", 1, true],
    ["../x", 0, false],
    ["../../x", 1, false],
    ["/etc/passwd", 5, false],
    ["a/../b", 3, false],
    ["", 3, false],
  ])("%j at depth %i: %s", (target, depth, stays) => {
    expect(staysInside(target, depth)).toBe(stays);
  });

  it("would lead out when `..` behind a name were allowed", () => {
    // root/p/q/up -> ../.. is root itself, and root/p/q/up/.. is root's parent.
    mkdirSync(join(inside, "p/q"), { recursive: true });
    symlinkSync("../..", join(inside, "p/q/up"));
    writeFileSync(join(base, "secret"), "x");
    expect(existsSync(`${inside}/p/q/up/../secret`)).toBe(true);
    expect(staysInside("p/q/up/../secret", 0)).toBe(false);
  });
});
