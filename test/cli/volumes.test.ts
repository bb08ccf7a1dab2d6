import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { openWorkspace } from "./workspace.ts";

const box = openWorkspace();
afterAll(() => box[Symbol.asyncDispose]());

describe("warren volume", () => {
  it("creates, lists, inspects, measures and removes", async () => {
    expect(await box.ok(["volume", "create", "-l", "team=a", "-l", "x", "one"])).toBe("one\n");
    expect(JSON.parse(await box.ok(["volume", "create", "two", "--json"]))).toMatchObject({
      name: "two",
      runtime: "fake",
    });
    const table = await box.ok(["volume", "ls"]);
    expect(table).toMatch(/^NAME +RUNTIME +AGE +LABELS\none +fake +\S+ +team=a,x=\ntwo +fake +\S+\n$/);
    expect(await box.ok(["volume", "ls", "-q"])).toBe("one\ntwo\n");
    expect(await box.ok(["volume", "ls", "-q", "tw"])).toBe("two\n");
    expect(JSON.parse(await box.ok(["volume", "ls", "--json", "none"]))).toEqual([]);
    expect(JSON.parse(await box.ok(["volume", "inspect", "one"]))).toMatchObject({
      labels: { team: "a", x: "" },
    });
    const id = (await box.ok(["create", "-v", "one:/v"])).trim();
    await box.ok(["exec", id, "sh", "-c", "head -c 100000 /dev/zero > /v/f"]);
    expect(await box.ok(["volume", "du"])).toMatch(/^NAME +RUNTIME +SIZE\none +fake +10\d KiB\ntwo +fake /);
    expect(JSON.parse(await box.ok(["volume", "du", "tw", "--json"]))).toMatchObject([{ name: "two" }]);
    // One is in use, one is not there, and that keeps the other from nothing.
    const { code, stdout, stderr } = await box.warren(["volume", "rm", "one", "absent", "two"]);
    expect(code).toBe(1);
    expect(stdout.toString()).toBe("two\n");
    expect(stderr).toContain("the volume one is mounted by");
    expect(stderr).toContain("there is no volume absent");
    expect(await box.ok(["volume", "rm", "-f", "one", "absent"])).toBe("one\nabsent\n");
    expect(await box.ok(["ls", "-q"])).toBe("");
    expect(await box.ok(["volume", "ls", "-q"])).toBe("");
  });

  it("says what is wrong with its command line", async () => {
    for (const args of [[], ["rm"], ["nonsense"], ["create"], ["ls", "--nonsense"]]) {
      const { code, stderr } = await box.warren(["volume", ...args]);
      expect(code, args.join(" ")).toBe(2);
      expect(stderr).toMatch(/volume/);
    }
    const { code, stderr } = await box.warren(["volume", "create", "../up"]);
    expect(code).toBe(1);
    expect(stderr).toContain("error: name: a volume's name is");
  });
});

describe("warren create", () => {
  it("mounts volumes and directories", async () => {
    const project = join(box.dir, "a project");
    mkdirSync(project);
    writeFileSync(join(project, "note"), "from here");
    const colon = join(box.dir, "with:colon");
    mkdirSync(colon);
    const mount = `type=bind,source=${colon},target=/c,readonly`;
    const id = (
      await box.ok(["create", "-v", `${project}:/p`, "-v", "cache:/cache", "--mount", mount])
    ).trim();
    const script = "cat /p/note; echo back > /p/new; echo x > /cache/x; echo no > /c/no";
    const { stdout } = await box.warren(["exec", id, "sh", "-c", script]);
    expect(stdout.toString()).toBe("from here");
    expect(readFileSync(join(project, "new"), "utf8")).toBe("back\n");
    expect(JSON.parse(await box.ok(["inspect", id])).mounts).toHaveLength(3);
    await box.ok(["rm", id]);
    await box.ok(["volume", "rm", "cache"]);
    const remote = await box.warren(["create", "-v", "./x:/x"], {
      env: { WARREN_URL: "http://127.0.0.1:1" },
    });
    expect(remote.code).toBe(2);
    expect(remote.stderr).toContain("absolute path of the server's machine");
  });
});

it("warren prune removes what has stopped", async () => {
  const [running, stopped] = [(await box.ok(["create"])).trim(), (await box.ok(["create"])).trim()];
  await box.ok(["stop", stopped]);
  expect(await box.ok(["prune"])).toBe(`${stopped}\n`);
  expect(await box.ok(["prune"])).toBe("");
  expect(JSON.parse(await box.ok(["prune", "--json"]))).toEqual({ removed: [], failed: [] });
  expect(await box.ok(["ls", "-q"])).toBe(`${running}\n`);
  await box.ok(["rm", running]);
});
