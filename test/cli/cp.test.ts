import { randomBytes } from "node:crypto";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { download } from "../../src/cli/copy/download.ts";
import type { SandboxApi } from "../../src/contracts/api.ts";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { FileInfo } from "../../src/contracts/files.ts";
import { openWorkspace, type Workspace } from "./workspace.ts";

describe("warren cp", () => {
  let box: Workspace;
  /** A directory inside: on the fake runtime, one of this machine. */
  let there: string;
  beforeAll(async () => {
    box = openWorkspace();
    await box.ok(["create", "--name", "c"]);
    there = (await box.ok(["exec", "c", "mktemp", "-d", "/tmp/warren-cp-there-XXXXXX"])).trim();
  });
  afterAll(async () => {
    await box.ok(["exec", "c", "rm", "-rf", there]);
    await box[Symbol.asyncDispose]();
  });
  let here: string;
  beforeEach(() => {
    here = mkdtempSync(join(box.dir, "here-"));
  });
  const inside = async (...cmd: string[]) => (await box.ok(["exec", "-w", there, "c", ...cmd])).trim();

  it("carries bytes and modes both ways", async () => {
    const bytes = randomBytes(5 * 1024 * 1024);
    writeFileSync(join(here, "a b;c"), bytes);
    chmodSync(join(here, "a b;c"), 0o741);
    await box.ok(["cp", join(here, "a b;c"), `c:${there}/x y`]);
    expect(await inside("stat", "-c", "%a %s", "x y")).toBe(`741 ${bytes.length}`);
    await box.ok(["cp", `c:${there}/x y`, join(here, "back")]);
    expect(readFileSync(join(here, "back")).equals(bytes)).toBe(true);
    expect(statSync(join(here, "back")).mode & 0o777).toBe(0o741);
  });

  it("copies into directories as cp does", async () => {
    writeFileSync(join(here, "f"), "1");
    await inside("mkdir", "into");
    await box.ok(["cp", join(here, "f"), `c:${there}/into`]);
    await box.ok(["cp", join(here, "f"), `c:${there}/made/`]);
    expect(await inside("cat", "into/f", "made/f")).toBe("11");
    mkdirSync(join(here, "d"));
    await box.ok(["cp", `c:${there}/into/f`, join(here, "d")]);
    expect(readFileSync(join(here, "d/f"), "utf8")).toBe("1");
    expect((await box.warren(["cp", `c:${there}/into/f`, join(here, "absent/")])).code).toBe(1);
  });

  it("streams from stdin and to stdout", async () => {
    const input = randomBytes(1024 * 1024);
    await box.ok(["cp", "-", `c:${there}/stream`], { input });
    expect((await box.warren(["cp", `c:${there}/stream`, "-"])).stdout.equals(input)).toBe(true);
    await box.ok(["cp", "/dev/null", `c:${there}/empty`]);
    expect(await inside("stat", "-c", "%s", "empty")).toBe("0");
  });

  it("writes to what is not a file, and never replaces it", async () => {
    await box.ok(["cp", "-", `c:${there}/small`], { input: "x" });
    await box.ok(["cp", `c:${there}/small`, "/dev/null"]);
    expect(lstatSync("/dev/null").isCharacterDevice()).toBe(true);
  });

  it("carries trees both ways, links and read-only directories included", async () => {
    const tree = join(here, "tree");
    mkdirSync(join(tree, "sub/deep"), { recursive: true });
    writeFileSync(join(tree, "sub/deep/run"), "#!/bin/sh\n", { mode: 0o755 });
    writeFileSync(join(tree, ".hidden"), "h");
    symlinkSync("sub/deep/run", join(tree, "link"));
    symlinkSync("../sub", join(tree, "sub/up"));
    mkdirSync(join(tree, "empty"));
    chmodSync(join(tree, "sub/deep"), 0o555);
    await box.ok(["cp", tree, `c:${there}/t1`]);
    expect(await inside("readlink", "t1/link")).toBe("sub/deep/run");
    expect(await inside("stat", "-c", "%a", "t1/sub/deep", "t1/sub/deep/run")).toBe("555\n755");
    // A directory that exists takes the tree in; `/.` pours its contents out.
    await box.ok(["cp", tree, `c:${there}/t1`]);
    expect(await inside("ls", "t1/tree")).toContain("sub");
    await box.ok(["cp", `${tree}/.`, `c:${there}/t2`]);

    const back = join(here, "back");
    await box.ok(["cp", `c:${there}/t2`, back]);
    expect(readdirSync(back).sort()).toEqual([".hidden", "empty", "link", "sub"]);
    expect(readlinkSync(join(back, "link"))).toBe("sub/deep/run");
    expect(readlinkSync(join(back, "sub/up"))).toBe("../sub");
    expect(statSync(join(back, "sub/deep")).mode & 0o777).toBe(0o555);
    await box.ok(["cp", `c:${there}/t2/.`, `${join(here, "d2")}/`]);
    await box.ok(["cp", `c:${there}/t2`, join(here, "d2")]);
    expect(readdirSync(join(here, "d2")).sort()).toEqual([".hidden", "empty", "link", "sub", "t2"]);
    await inside("sh", "-c", "chmod -R u+w t1 t2");
  });

  it("skips what can't be copied, says so and ends with 1", async () => {
    await inside(
      "sh",
      "-c",
      "mkdir odd; cd odd; mkfifo pipe; ln -s /etc/passwd out; ln -s ../../x up; echo ok > ok",
    );
    const { code, stderr } = await box.warren(["cp", `c:${there}/odd`, join(here, "odd")]);
    expect(code).toBe(1);
    expect(readdirSync(join(here, "odd"))).toEqual(["ok"]);
    expect(stderr.trim().split("\n").sort()).toEqual([
      expect.stringMatching(/^warning: skipped .*out: the link leads out/),
      expect.stringMatching(/^warning: skipped .*pipe: it is a fifo/),
      expect.stringMatching(/^warning: skipped .*up: the link leads out/),
    ]);
  });

  it("shows names from inside without obeying them", async () => {
    await inside("sh", "-c", 'mkdir esc; mkfifo "esc/$(printf "\\033]0;owned\\007")"');
    const { stderr } = await box.warren(["cp", `c:${there}/esc`, join(here, "esc")]);
    expect(stderr).toContain("\\x1b]0;owned\\x07");
    expect(stderr).not.toContain("\u001b");
  });

  it("tells what is missing", async () => {
    expect(await box.warren(["cp", `c:${there}/absent`, here])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^error: /),
    });
    expect(await box.warren(["cp", join(here, "absent"), `c:${there}/x`])).toMatchObject({
      code: 1,
      stderr: `error: ${join(here, "absent")}: no such file or directory\n`,
    });
    expect(await inside("sh", "-c", "ls x; true")).toBe("");
  });
});

describe("a sandbox that lies about its files", () => {
  let base: string;
  beforeEach(() => {
    base = mkdtempSync("/tmp/warren-cli-");
    mkdirSync(join(base, "outside"));
  });
  afterEach(() => rmSync(base, { recursive: true, force: true }));

  const info = (path: string, type: FileInfo["type"], more: Partial<FileInfo> = {}): FileInfo => ({
    name: path.slice(path.lastIndexOf("/") + 1),
    path,
    size: 1,
    mode: "",
    mod_time: "2026-01-01T00:00:00Z",
    is_dir: type === "directory",
    type,
    permissions: 0o777,
    uid: 0,
    gid: 0,
    ...more,
  });

  /** An API whose answers no honest sandbox would give. */
  const liar = (lists: Record<string, FileInfo[]>) =>
    ({
      files: {
        stat: async (_: string, path: string) => info(path.replace(/\/\.$/, ""), "directory"),
        list: async (_: string, path: string) => lists[path] ?? [],
        read: async (_: string, path: string) => ({
          info: info(path, "file"),
          body: (async function* () {
            yield Buffer.from("planted");
          })(),
        }),
      },
    }) as unknown as SandboxApi;
  const copyOut = async (lists: Record<string, FileInfo[]>) => {
    const warnings: string[] = [];
    const remote = { api: liar(lists), id: "x", warn: (message: string) => void warnings.push(message) };
    await download(remote, "/d", join(base, "dst"));
    return warnings;
  };

  it.each(["../outside/planted", "..", ".", "", "a/b", "/tmp/warren-planted", "x\0"])(
    "gets nowhere with the name %j",
    async (name) => {
      const attempt = copyOut({ "/d": [info("/d/ok", "file"), { ...info("/d/x", "file"), name }] });
      await expect(attempt).rejects.toEqual(expect.objectContaining({ code: "invalid_path" }));
      expect(readdirSync(join(base, "outside"))).toEqual([]);
      expect(existsSync("/tmp/warren-planted")).toBe(false);
    },
  );

  it("can't go through a link that it had us make", async () => {
    // The same name twice: a link first, then a directory with something in it.
    const attempt = copyOut({
      "/d": [
        info("/d/a", "symlink", { target: "b" }),
        info("/d/a", "directory"),
        info("/d/b", "symlink", { target: "." }),
      ],
      "/d/a": [info("/d/a/planted", "file")],
    });
    await expect(attempt).rejects.toBeInstanceOf(WarrenError);
    expect(readdirSync(join(base, "dst")).sort()).toEqual(["a", "b"]);
  });

  it("can't use a link left by an earlier copy", async () => {
    mkdirSync(join(base, "dst/d"), { recursive: true });
    symlinkSync(join(base, "outside"), join(base, "dst/d/a"));
    const attempt = copyOut({ "/d": [info("/d/a", "directory")], "/d/a": [info("/d/a/planted", "file")] });
    await expect(attempt).rejects.toEqual(expect.objectContaining({ code: "file_exists" }));
    expect(readdirSync(join(base, "outside"))).toEqual([]);
  });

  it("can't make us descend for ever, nor leave set-user-ID programs", async () => {
    const endless: Record<string, FileInfo[]> = new Proxy(
      {},
      { get: (_, path: string) => [info(`${path}/e`, "directory")] },
    );
    await expect(copyOut(endless)).rejects.toEqual(expect.objectContaining({ code: "too_large" }));
    rmSync(join(base, "dst"), { recursive: true });
    await copyOut({ "/d": [info("/d/su", "file", { permissions: 0o6777 })] });
    expect(lstatSync(join(base, "dst/su")).mode & 0o7000).toBe(0);
  });
});
