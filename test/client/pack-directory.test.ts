import { execFileSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { type PackOptions, packDirectory } from "../../src/client/node/index.ts";
import { checkedTar } from "../../src/lib/tar-entries.ts";
import { piecesOf } from "../../src/testing/tar.ts";
import { eventually } from "../../src/testing/wait.ts";
import { tempDir } from "../engine/support/temp-dir.ts";

/** A directory of one test with these files. */
function directory(files: Record<string, string> = {}): string {
  const dir = tempDir();
  onTestFinished(() => dir[Symbol.dispose]());
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(dir.path, name)), { recursive: true });
    writeFileSync(join(dir.path, name), content);
  }
  return dir.path;
}

async function packed(path: string, options?: PackOptions): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of packDirectory(path, options)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** The entries as GNU tar tells them. */
function listing(tar: Buffer): string[] {
  const list = execFileSync("tar", ["-t", "--quoting-style=literal"], { input: tar, maxBuffer: 1 << 28 });
  return list
    .toString()
    .split("\n")
    .filter((line) => line !== "");
}

const names = async (path: string, options?: PackOptions) => listing(await packed(path, options));

describe("the tar of a directory", () => {
  it("is what GNU tar unpacks to the same: bytes, modes, times, links", async () => {
    const path = directory({
      Dockerfile: "FROM scratch\n",
      "a/deep/er/file": "deep",
      "a/empty": "",
      "with space/ünï\nline": "odd",
      [`long/${"x".repeat(200)}`]: "long",
      [`${"d".repeat(90)}/${"e".repeat(90)}/f`]: "split",
      "-rf": "dash",
    });
    writeFileSync(join(path, "big"), Buffer.alloc(3_000_001, 5));
    mkdirSync(join(path, "empty dir"), { mode: 0o700 });
    symlinkSync("../outside/nowhere", join(path, "a/link"));
    symlinkSync("x".repeat(300), join(path, "a/long link"));
    linkSync(join(path, "big"), join(path, "hard"));
    chmodSync(join(path, "-rf"), 0o4751);
    if (process.getuid?.() === 0) chmodSync(join(path, "a/empty"), 0);
    utimesSync(join(path, "big"), 1e9, 1e9);
    utimesSync(join(path, "a/deep"), 1.2e9, 1.2e9);
    const tar = await packed(path);
    const verbose = execFileSync("tar", ["-tv", "--numeric-owner"], { input: tar }).toString();
    for (const line of verbose.trim().split("\n")) expect(line).toMatch(/^\S+ 0\/0 /);
    const out = directory();
    execFileSync("tar", ["-xp", "-C", out], { input: tar });
    const tree = (root: string) =>
      readdirSync(root, { recursive: true, encoding: "utf8" })
        .sort()
        .map((name) => {
          const at = join(root, name);
          const stat = lstatSync(at);
          if (stat.isSymbolicLink()) return [name, readlinkSync(at)];
          const content = stat.isFile() ? readFileSync(at).toString("base64") : "";
          return [name, stat.mode, Math.floor(stat.mtimeMs / 1000), content];
        });
    expect(tree(out)).toEqual(tree(path));
  });

  it("has the order of the names' bytes, parents first, whatever order they were made in", async () => {
    const files = ["b", "a/z", "a/b/c", "B", "a.x", "ä", "a-x"];
    const one = directory(Object.fromEntries(files.map((name) => [name, name])));
    const two = directory(Object.fromEntries(files.reverse().map((name) => [name, name])));
    for (const path of [one, two]) {
      for (const name of readdirSync(path, { recursive: true, encoding: "utf8" }))
        utimesSync(join(path, name), 1e9, 1e9);
    }
    const tar = await packed(one);
    expect(listing(tar)).toEqual(["B", "a/", "a/b/", "a/b/c", "a/z", "a-x", "a.x", "b", "ä"]);
    expect((await packed(two)).equals(tar)).toBe(true);
  });

  it("of nothing is a tar as well, and whole for whoever checks it", async () => {
    for (const path of [directory(), directory({ a: "x".repeat(1000) })]) {
      const tar = await packed(path);
      for await (const _ of checkedTar(piecesOf(tar, 100), tar.length));
      expect(tar.length % 512).toBe(0);
    }
  });

  it("holds many small things, at whatever pace it is read", async () => {
    const path = directory();
    for (let i = 0; i < 3000; i++) mkdirSync(join(path, `d${i}`));
    let bytes = 0;
    let chunks = 0;
    for await (const chunk of packDirectory(path)) {
      bytes += chunk.length;
      if (chunks++ % 500 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    }
    expect(bytes).toBe(3000 * 512 + 1024);
  });

  it("leaves no listener behind for each piece of a file", async () => {
    const path = directory();
    writeFileSync(join(path, "big"), Buffer.alloc(10_000_000));
    const warnings: string[] = [];
    const note = ({ name }: Error) => void warnings.push(name);
    process.on("warning", note);
    onTestFinished(() => void process.off("warning", note));
    for await (const _ of packDirectory(path)) await new Promise((resolve) => setImmediate(resolve));
    expect(warnings).toEqual([]);
  });

  it("is let go of half way, with all that was open", async () => {
    const path = directory({ "a/b/c/big": "x".repeat(1_000_000), "z/after": "x" });
    const open = () => readdirSync("/proc/self/fd").length;
    for await (const _ of packDirectory(path)) break; // loads its modules
    const before = open();
    for (let i = 0; i < 20; i++) for await (const _ of packDirectory(path)) break;
    await eventually("closed files", () => open() <= before);
  });
});

describe(".dockerignore", () => {
  const files = {
    Dockerfile: "FROM scratch\n",
    "README.md": "r",
    "docs/guide.md": "g",
    "docs/keep.txt": "k",
    "src/main.c": "m",
    "src/main.o": "o",
    "src/Main.O": "O",
    "src/deep/er/x.o": "x",
    constructor: "c",
    toString: "t",
  };
  const kept = async (ignore: string, options?: PackOptions) => {
    const all = await names(directory({ ...files, ".dockerignore": ignore }), options);
    return all.filter((name) => !name.endsWith("/") && name !== ".dockerignore");
  };
  const all = Object.keys(files).sort();
  const without = (...gone: string[]) => all.filter((name) => !gone.includes(name));

  it.each<[string, string, string[]]>([
    ["nothing", "", all],
    ["comments and blank lines", "# README.md\n\n  \n", all],
    ["a file", "README.md\n", without("README.md")],
    [
      "a file, with the line ends of Windows and a byte order mark",
      "\ufeffREADME.md\r\nconstructor\r\n",
      without("README.md", "constructor"),
    ],
    ["a path with slashes around it", "/docs/\n", without("docs/guide.md", "docs/keep.txt")],
    ["a pattern at its level only", "*.o\n", all],
    ["a pattern one level down", "*/*.o\n", without("src/main.o")],
    ["a pattern at any level", "**/*.o\n", without("src/main.o", "src/deep/er/x.o")],
    ["upper and lower case as they are", "readme.md\n", all],
    ["names that every object has", "constructor\ntoString\n", without("constructor", "toString")],
    ["a question mark and a class", "src/main.?\n", without("src/main.c", "src/main.o")],
    ["all but one", "*\n!docs/keep.txt\n", ["Dockerfile", "docs/keep.txt"]],
    ["a directory but one in it", "docs\n!docs/*.txt\n", without("docs/guide.md")],
    [
      "what a later line takes back",
      "docs\n!docs/keep.txt\ndocs/keep*\n",
      without("docs/guide.md", "docs/keep.txt"),
    ],
    ["all but what lies deep", "*\n!**/x.o\n", ["Dockerfile", "src/deep/er/x.o"]],
    ["everything, the Dockerfile too", "*\nDockerfile\n", ["Dockerfile"]],
  ])("leaves out %s", async (_what, ignore, expected) => {
    expect(await kept(ignore)).toEqual(expected);
  });

  it("keeps the directories of what it keeps, and goes into no others", async () => {
    const path = directory({ ...files, ".dockerignore": "*\n!src/deep/er/x.o\n" });
    mkdirSync(join(path, "docs/closed"), { mode: 0 });
    expect(await names(path)).toEqual(["Dockerfile", "src/", "src/deep/", "src/deep/er/", "src/deep/er/x.o"]);
  });

  it("is the Dockerfile's own where it has one, and always keeps that Dockerfile", async () => {
    const path = directory({
      ...files,
      "build/My.Dockerfile": "FROM scratch\n",
      "build/My.Dockerfile.dockerignore": "*\n!README.md\n",
      ".dockerignore": "README.md\n",
    });
    expect(await names(path, { dockerfile: "build/My.Dockerfile" })).toEqual([
      "README.md",
      "build/",
      "build/My.Dockerfile",
    ]);
    expect(await names(path)).not.toContain("README.md");
  });

  it("that makes no sense is refused by its name", async () => {
    await expect(kept("[\n")).rejects.toMatchObject({
      code: "invalid_request",
      message: expect.stringContaining(".dockerignore"),
    });
    const path = directory(files);
    mkdirSync(join(path, ".dockerignore"));
    await expect(packed(path)).rejects.toMatchObject({ code: "invalid_request" });
    rmSync(join(path, ".dockerignore"), { recursive: true });
    symlinkSync("/etc/passwd", join(path, ".dockerignore"));
    await expect(packed(path)).rejects.toMatchObject({ code: "invalid_request" });
  });
});

describe("what is no plain file", () => {
  it("is skipped if it is a socket, and never opened if it is a FIFO", async () => {
    const path = directory({ a: "a" });
    const server = createServer().listen(join(path, "socket"));
    await once(server, "listening");
    onTestFinished(() => void server.close());
    execFileSync("mkfifo", [join(path, "fifo")]);
    expect(await names(path)).toEqual(["a", "fifo"]);
  });

  it("is refused if it is a device, unless it is left out [needs a device that a link can't stand for]", async () => {
    // The directory of a terminal's devices is one that everybody may list.
    await expect(packed("/dev/pts", { dockerfile: "none" })).rejects.toMatchObject({
      code: "invalid_request",
      message: expect.stringMatching(/is a device/),
      hint: expect.stringContaining(".dockerignore"),
    });
  });

  it("is refused if its name is not UTF-8", async () => {
    const path = directory({ a: "a" });
    writeFileSync(Buffer.concat([Buffer.from(`${path}/bad`), Buffer.from([0xff])]), "x");
    await expect(packed(path)).rejects.toMatchObject({ code: "invalid_path" });
  });

  it("is no directory at all", async () => {
    const path = directory({ file: "x" });
    await expect(packed(join(path, "file"))).rejects.toThrow(/file is not a directory/);
    await expect(packed(join(path, "absent"))).rejects.toThrow(/absent does not exist/);
  });
});

describe("what changes meanwhile", () => {
  it("is told, when a file gets shorter", async () => {
    const path = directory();
    const file = join(path, "file");
    writeFileSync(file, "");
    truncateSync(file, 50_000_000);
    const reading = (async () => {
      let chunks = 0;
      for await (const _ of packDirectory(path)) if (chunks++ === 2) truncateSync(file, 1000);
    })();
    await expect(reading).rejects.toMatchObject({
      code: "invalid_request",
      message: expect.stringMatching(/"file" changed/),
    });
  });

  it("never leads out of the directory", async () => {
    const secret = directory({ file: "the secret", "sub/file": "the secret" });
    const path = directory({ "d/file": "harmless", "d/sub/file": "harmless", "e/f": "x".repeat(100_000) });
    const [inside, aside] = [join(path, "d"), join(path, "aside")];
    let swaps = 0;
    const swap = setInterval(() => {
      const isLink = lstatSync(inside).isSymbolicLink();
      if (isLink) {
        rmSync(inside);
        renameSync(aside, inside);
      } else {
        renameSync(inside, aside);
        symlinkSync(secret, inside);
      }
      swaps++;
    }, 0);
    try {
      for (let round = 0; round < 200; round++) {
        // A directory that became a link while it was looked at is told; what was read is never the secret.
        const tar = await packed(path).catch((error: { code?: unknown }) => {
          if (error.code !== "invalid_request") throw error;
          return Buffer.alloc(0);
        });
        expect(tar.includes("the secret")).toBe(false);
      }
    } finally {
      clearInterval(swap);
    }
    expect(swaps).toBeGreaterThan(10);
  });
});
