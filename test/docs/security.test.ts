import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";

const rows = readFileSync("docs/SECURITY.md", "utf8")
  .split("\n")
  .filter((line) => /^\| +\d+ +\|/.test(line))
  .map((line) => {
    const [, number = "", promise = "", heldBy = ""] = line.split("|").map((cell) => cell.trim());
    return { number, promise, heldBy };
  });

function sources(path: string): string {
  if (statSync(path).isFile()) return readFileSync(path, "utf8");
  return readdirSync(path, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => readFileSync(join(path, name), "utf8"))
    .join("\n");
}

/** Files and folders that a cell names; a bare file name lies beside the one before it, a suite in src/testing. */
function namedPaths(cell: string): string[] {
  let folder = "";
  return [...cell.matchAll(/`([^`]+)`/g)].map(([, name = ""]) => {
    if (name.endsWith("()")) return "src/testing";
    const path = name.includes("/") ? name : join(folder, name);
    folder = path.endsWith("/") ? path : join(path, "..");
    return path;
  });
}

describe("docs/SECURITY.md", () => {
  it("numbers its promises one after the other", () => {
    expect(rows.map((row) => Number(row.number))).toEqual(rows.map((_, index) => index + 1));
    expect(rows.length).toBeGreaterThan(10);
  });

  it.each(rows)("promise $number names tests that exist", ({ heldBy }) => {
    const paths = namedPaths(heldBy);
    expect(paths).not.toEqual([]);
    for (const path of paths) expect(existsSync(path), path).toBe(true);
    const text = paths.map(sources).join("\n");
    for (const [, title = ""] of heldBy.matchAll(/"([^"]+)"/g)) expect(text).toContain(title);
  });
});
