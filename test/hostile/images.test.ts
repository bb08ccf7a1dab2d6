import { randomBytes } from "node:crypto";
import { cp, lstat, mkdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { CreateSandbox } from "../../src/contracts/sandbox.ts";
import { run } from "../../src/lib/run.ts";
import { type RawEntry, rawTar } from "../runtimes/common/support/raw-tar.ts";
import { type Canary, plantCanary } from "./support/canary.ts";
import { type Lab, openLab, outputOf } from "./support/lab.ts";
import { someOf } from "./support/long.ts";

let lab: Lab;
let canary: Canary;
let before: unknown;

beforeAll(async () => {
  lab = await openLab({ programs: ["links", "climb", "cat"] });
  canary = await plantCanary(join(lab.dir, "canary"));
});
beforeEach(async () => {
  before = await canary.state();
});
afterEach(async () => {
  expect(await canary.state()).toEqual(before);
});
afterAll(() => lab?.[Symbol.asyncDispose]());

/** A copy of the lab's image in which each of `paths` is a link to `target`. */
async function imageWithLinks(paths: readonly string[], target: string): Promise<string> {
  const root = join(lab.dir, `image-${randomBytes(4).toString("hex")}`);
  await cp(lab.image, root, { recursive: true });
  for (const path of paths) {
    await rm(join(root, path), { recursive: true, force: true });
    await mkdir(join(root, dirname(path)), { recursive: true });
    await symlink(target, join(root, path));
  }
  return root;
}

/** Starts it, uses it, starts it again. Either that works, or it is refused with a sentence; never with the host's files. */
async function live(
  request: Partial<CreateSandbox>,
  change?: (id: string) => Promise<void>,
): Promise<string> {
  let id: string | undefined;
  let seen = "";
  try {
    id = await lab.sandbox(request);
    await change?.(id);
    for (let i = 0; i < 2; i++) {
      for (const path of [
        "/etc/passwd",
        "/etc/hosts",
        "/etc/hostname",
        "/tmp/secret",
        "/proc/secret",
        "/box/secret",
      ]) {
        const file = await lab.attack(id, "cat", [path]).catch((error: unknown) => refusal(error));
        seen += typeof file === "string" ? file : file.stdout;
      }
      for (const user of ["root", "mallory"]) {
        const climbed = await lab
          .attack(id, "climb", [canary.file], { user })
          .catch((error: unknown) => refusal(error));
        if (typeof climbed !== "string") seen += climbed.exit_code === 0 ? climbed.stdout : "";
      }
      await lab.engine.files.write(id, "/tmp/written", Buffer.from("x")).catch(refusal);
      await lab.engine.stop(id, { timeoutMs: 0 });
      await lab.engine.start(id);
    }
  } catch (error) {
    seen += refusal(error);
  } finally {
    if (id) await lab.engine.remove(id);
  }
  expect(seen).not.toContain(canary.token);
  expect(seen).not.toContain("escaped");
  return seen;
}

function refusal(error: unknown): string {
  expect(error).toBeInstanceOf(WarrenError);
  expect((error as WarrenError).code).not.toBe("internal");
  return (error as WarrenError).code;
}

const mountPoints = [
  "proc",
  "sys",
  "dev",
  "etc",
  "tmp",
  ".warren",
  "dev/pts",
  "dev/shm",
  "dev/mqueue",
  "dev/console",
  "dev/null",
  "sys/fs",
  "sys/fs/cgroup",
  "etc/hosts",
  "etc/hostname",
  "etc/resolv.conf",
  "etc/passwd",
  "etc/group",
  "proc/sys",
  "proc/kcore",
  "box",
];

describe("an image whose place for a mount is a link out (CVE-2023-27561, CVE-2025-31133, CVE-2025-52565)", () => {
  it.each(mountPoints)("/%s leads to nothing of the host", async (path) => {
    const targets = [canary.dir, canary.file, `/proc/1/root${canary.dir}`, "/proc/self/fd/3"];
    for (const target of someOf(targets, mountPoints.indexOf(path))) {
      await live({ image: await imageWithLinks([path], target), workdir: "/box" });
    }
  });

  it("all of them at once, with a read-only root and its memory file systems", async () => {
    await live({
      image: await imageWithLinks(["proc", "sys", "dev", "tmp", "run", "var/tmp"], canary.dir),
      readonly_fs: true,
    });
  });

  it("an ordinary image of this kind does start", async () => {
    expect(await live({ workdir: "/box" })).toContain("inside /");
  });
});

describe("a sandbox that has made links of its mount points before it starts again", () => {
  const places = ["etc", "box", "box/dir", "tmp", "root", "home"];
  it.each(places)("/%s leads to nothing of the host", async (path) => {
    const turn = places.indexOf(path);
    const plain = { workdir: "/box/dir" };
    const withMemory = { ...plain, storage: { tmpfs: [{ path: "/box/memory", size: "1m" }] } };
    for (const spec of someOf([plain, withMemory], turn)) {
      const targets = [canary.dir, `../../../../../..${canary.dir}`, `/proc/1/root${canary.dir}`];
      for (const target of someOf(targets, turn, 2)) {
        await live(spec, async (id) => {
          await lab.engine.files.rename(id, `/${path}`, `/moved-${path.replace("/", "-")}`).catch(refusal);
          await lab.attack(id, "links", [target, `/${path}`], { workdir: "/" }).catch(refusal);
        });
      }
    }
  });

  it("the image itself, and so every other sandbox, stays as it was", async () => {
    const mine = await lab.sandbox();
    await lab.engine.files.write(mine, "/etc/passwd", Buffer.from("root::0:0::/:\n"));
    await lab.engine.files.chmod(mine, "/etc/group", 0o777);
    await lab.engine.files.remove(mine, "/attack/climb");
    const theirs = await lab.sandbox();
    expect(outputOf(await lab.attack(theirs, "cat", ["/etc/passwd"]))).toContain("mallory");
    expect((await lab.engine.files.stat(theirs, "/etc/group")).permissions).toBe(0o644);
    expect(outputOf(await lab.attack(theirs, "climb", ["/x"]))).toBe("inside /\n");
    expect(await readFile(join(lab.image, "etc/passwd"), "utf8")).toContain("mallory");
    await Promise.all([lab.engine.remove(mine), lab.engine.remove(theirs)]);
  });
});

describe("a tar file that writes outside of where it is unpacked", () => {
  const archives = (): Record<string, { entries: RawEntry[]; escaped: string }> => {
    const up = `${"../".repeat(20)}${lab.dir.slice(1)}`;
    return {
      "a name with ..": {
        entries: [{ name: `${up}/dotdot`, content: "hostile" }],
        escaped: join(lab.dir, "dotdot"),
      },
      "an absolute name": {
        entries: [{ name: `${lab.dir}/absolute`, content: "hostile" }],
        escaped: join(lab.dir, "absolute"),
      },
      "a file behind a link": {
        entries: [
          { name: "out", type: "2", link: lab.dir },
          { name: "out/behind", content: "hostile" },
        ],
        escaped: join(lab.dir, "behind"),
      },
      "a file in place of a link": {
        entries: [
          { name: "out", type: "2", link: canary.file },
          { name: "out", content: "hostile" },
        ],
        escaped: join(lab.dir, "never"),
      },
      "a hard link to a file of the host": {
        entries: [
          { name: "hard", type: "1", link: canary.file },
          { name: "hard", content: "hostile" },
        ],
        escaped: join(lab.dir, "never"),
      },
    };
  };

  it.each([
    "a name with ..",
    "an absolute name",
    "a file behind a link",
    "a file in place of a link",
    "a hard link to a file of the host",
  ])("%s", async (kind) => {
    const archive = archives()[kind];
    if (!archive) throw new Error(kind);
    const path = join(lab.dir, `${randomBytes(4).toString("hex")}.tar`);
    await writeFile(path, rawTar({ name: "etc/passwd", content: "hostile" }, ...archive.entries));
    await live({ image: path });
    await expect(lstat(archive.escaped)).rejects.toThrow("ENOENT");
  });

  it("does so without the guard", async () => {
    const root = join(lab.dir, "naive");
    await mkdir(root);
    for (const kind of ["a name with ..", "an absolute name"]) {
      const archive = archives()[kind];
      const path = join(lab.dir, "naive.tar");
      await writeFile(path, rawTar(...(archive?.entries ?? [])));
      await run("tar", ["--absolute-names", "-xf", path, "-C", root]);
      expect((await lstat(archive?.escaped ?? "")).isFile()).toBe(true);
      await rm(archive?.escaped ?? "");
    }
  });
});
