import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  chmod,
  chown,
  lstat,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  rename,
  stat,
  symlink,
  truncate,
  utimes,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import {
  bytesOf,
  childrenOf,
  exists,
  isSanitized,
  largestChild,
  run,
  script,
  startGuest,
  type TestGuest,
  until,
} from "./harness.ts";

/** Far more than a handler needs, far less than a file. */
const HANDLER_RSS_KIB = isSanitized ? 200_000 : 1024;

let guest: TestGuest;
let dir: string;
let n = 0;
beforeAll(async () => {
  guest = await startGuest();
});
afterAll(() => guest[Symbol.asyncDispose]());
beforeEach(async () => {
  dir = join(guest.dir, `t${++n}`);
  await mkdir(dir);
});

const fifo = (path: string) => execFileSync("mkfifo", [path]);

describe("read", () => {
  it("brings any bytes and what the file is", async () => {
    const path = join(dir, "a b'\"\n;");
    const data = randomBytes(300_000);
    await writeFile(path, data);
    await chmod(path, 0o4750);
    await utimes(path, 0, 1_700_000_000.25);
    const { info, body } = await guest.client.readFile(path);
    expect((await bytesOf(body)).equals(data)).toBe(true);
    expect(info).toEqual({
      name: "a b'\"\n;",
      path,
      size: 300_000,
      mode: "-rwsr-x---",
      mod_time: "2023-11-14T22:13:20.25Z",
      is_dir: false,
      type: "file",
      permissions: 0o4750,
      uid: 0,
      gid: 0,
    });
  });

  it("takes an offset and a length", async () => {
    const path = join(dir, "f");
    await writeFile(path, "0123456789");
    const part = async (options: object) =>
      (await bytesOf((await guest.client.readFile(path, options)).body)).toString();
    expect(await part({ offset: 3 })).toBe("3456789");
    expect(await part({ offset: 3, length: 4 })).toBe("3456");
    expect(await part({ length: 0 })).toBe("");
    expect(await part({ offset: 8, length: 100 })).toBe("89");
    expect(await part({ offset: 100 })).toBe("");
    for (const bad of [{ offset: -1 }, { length: 0.5 }]) {
      await expect(guest.client.readFile(path, bad)).rejects.toMatchObject({ code: "invalid_request" });
    }
  });

  it("reads the files of /proc to their end, and not through its magic links", async () => {
    const { info, body } = await guest.client.readFile("/proc/self/status");
    expect(info.size).toBe(0);
    expect((await bytesOf(body)).toString()).toContain("VmRSS");
    for (const path of ["/proc/self/exe", "/proc/self/root/etc/passwd", "/proc/self/fd/5"]) {
      await expect(guest.client.readFile(path)).rejects.toMatchObject({ code: "invalid_path" });
    }
  });

  it("of a gibibyte grows neither side", async () => {
    const path = join(dir, "big");
    await writeFile(path, "");
    await truncate(path, 1 << 30);
    const before = process.memoryUsage.rss();
    const { body } = await guest.client.readFile(path);
    let bytes = 0;
    let peakKiB = 0;
    let next = 0;
    for await (const chunk of body) {
      bytes += chunk.length;
      if (bytes < next) continue;
      next += 1 << 27;
      peakKiB = Math.max(peakKiB, await largestChild(guest.pid));
    }
    expect(bytes).toBe(1 << 30);
    expect(peakKiB).toBeGreaterThan(0);
    expect(peakKiB).toBeLessThan(HANDLER_RSS_KIB);
    expect(process.memoryUsage.rss() - before).toBeLessThan(300 << 20);
  });

  it("that is given up frees the guest", async () => {
    const path = join(dir, "big");
    await writeFile(path, "");
    await truncate(path, 1 << 30);
    const { body } = await guest.client.readFile(path);
    for await (const _ of body) break;
    await until(async () => (await childrenOf(guest.pid)).length === 0);
    const stop = new AbortController();
    const other = await guest.client.readFile(path, { signal: stop.signal });
    stop.abort();
    await expect(bytesOf(other.body)).rejects.toMatchObject({ code: "cancelled" });
  });

  it("waits for its reader, and for no one else", async () => {
    const path = join(dir, "big");
    await writeFile(path, "");
    await truncate(path, 64 << 20);
    const slow = await guest.client.readFile(path);
    const quick = await guest.client.readFile(path);
    expect((await bytesOf(quick.body)).length).toBe(64 << 20);
    expect((await bytesOf(slow.body)).length).toBe(64 << 20);
  });
});

describe("targets that are no files", () => {
  it("are refused at once by read and write, and are not opened", async () => {
    const pipe = join(dir, "fifo");
    fifo(pipe);
    await symlink("fifo", join(dir, "link"));
    for (const path of [pipe, join(dir, "link"), "/dev/null", "/dev/zero", join(guest.dir, ".sock"), dir]) {
      await expect(guest.client.readFile(path), path).rejects.toMatchObject({ code: "not_a_file" });
      await expect(guest.client.writeFile(path, Buffer.from("x")), path).rejects.toMatchObject({
        code: "not_a_file",
      });
      await expect(
        guest.client.writeFile(path, Buffer.from("x"), { append: true }),
        path,
      ).rejects.toMatchObject({
        code: "not_a_file",
      });
    }
    expect((await lstat(pipe)).isFIFO()).toBe(true);
    await expect(guest.client.writeFile(`${dir}/`, Buffer.from("x"))).rejects.toMatchObject({
      code: "not_a_file",
    });
    await expect(guest.client.writeFile(`${dir}/new/`, Buffer.from("x"))).rejects.toMatchObject({
      code: "not_a_file",
    });
  });

  it("are named by what is wrong", async () => {
    const file = join(dir, "file");
    await writeFile(file, "");
    await expect(guest.client.readFile(join(dir, "no"))).rejects.toMatchObject({ code: "file_not_found" });
    await expect(guest.client.readFile(join(file, "x"))).rejects.toMatchObject({ code: "not_a_directory" });
    await expect(guest.client.list(file)).rejects.toMatchObject({ code: "not_a_directory" });
    await expect(guest.client.list(join(dir, "no"))).rejects.toMatchObject({ code: "file_not_found" });
    await expect(guest.client.stat(join(dir, "no"))).rejects.toMatchObject({ code: "file_not_found" });
    for (const path of ["relative", "", "/a\0b", `/${"x".repeat(4096)}`, `/${"x".repeat(300)}`]) {
      await expect(guest.client.stat(path), path.slice(0, 9)).rejects.toMatchObject({ code: "invalid_path" });
    }
    await symlink("loop", join(dir, "loop"));
    await expect(guest.client.readFile(join(dir, "loop"))).rejects.toMatchObject({ code: "invalid_path" });
    await expect(guest.client.writeFile(join(dir, "loop"), Buffer.of())).rejects.toMatchObject({
      code: "invalid_path",
    });
  });
});

describe("stat and list", () => {
  it("tell of every kind of file, and follow a last link only when asked", async () => {
    await writeFile(join(dir, "b"), "12345");
    await mkdir(join(dir, "d"), 0o755);
    await chmod(join(dir, "d"), 0o1777);
    await symlink("b", join(dir, "l"));
    fifo(join(dir, "p"));
    await chown(join(dir, "b"), 7, 8);
    const infos = await guest.client.list(dir);
    expect(infos.map((i) => [i.name, i.type, i.is_dir, i.mode.slice(0, 1)])).toEqual([
      ["b", "file", false, "-"],
      ["d", "directory", true, "d"],
      ["l", "symlink", false, "l"],
      ["p", "fifo", false, "p"],
    ]);
    expect(infos[0]).toMatchObject({ uid: 7, gid: 8, size: 5, path: join(dir, "b") });
    expect(infos[1]?.mode).toBe("drwxrwxrwt");
    expect(infos[2]?.target).toBe("b");
    expect(await guest.client.stat(join(dir, "l"))).toEqual(infos[2]);
    expect(await guest.client.stat(join(dir, "l"), { follow: true })).toMatchObject({
      type: "file",
      size: 5,
    });
    expect(await guest.client.stat("/")).toMatchObject({ name: "/", path: "/", type: "directory" });
    expect(await guest.client.stat(`${dir}/d/`)).toMatchObject({ name: "d", type: "directory" });
    expect(await guest.client.stat("/dev/null")).toMatchObject({ type: "char_device", mode: "crw-rw-rw-" });
    expect(infos[0]?.mod_time).toBe(await preciseTime(join(dir, "b")));
  });

  it("sort by bytes, and bring names that are not UTF-8", async () => {
    const names = [
      Buffer.from([0xff, 0xfe]),
      Buffer.from("é"),
      Buffer.from("Z"),
      Buffer.from("a\n'\""),
      Buffer.from("-x"),
    ];
    for (const name of names) await writeFile(Buffer.concat([Buffer.from(`${dir}/`), name]), "");
    expect((await guest.client.list(dir)).map((i) => i.name)).toEqual(["-x", "Z", "a\n'\"", "é", "��"]);
  });

  it("bring thousands of entries", async () => {
    await run(guest, script('cd "$1" && seq -f "file-%05g" 1 5000 | xargs touch', dir));
    const infos = await guest.client.list(dir);
    expect(infos).toHaveLength(5000);
    expect(infos[4999]?.name).toBe("file-05000");
  });
});

/** The kernel's own nanoseconds, in RFC 3339. */
async function preciseTime(path: string): Promise<string> {
  const { mtimeNs } = await stat(path, { bigint: true });
  const fraction = String(mtimeNs % 1_000_000_000n)
    .padStart(9, "0")
    .replace(/0+$/, "");
  const seconds = new Date(Number(mtimeNs / 1_000_000_000n) * 1000).toISOString().slice(0, 19);
  return fraction === "" ? `${seconds}Z` : `${seconds}.${fraction}Z`;
}

describe("mkdir, rename, chmod", () => {
  it("make directories, with parents or not", async () => {
    await guest.client.mkdir(join(dir, "a/b/c"), { parents: true, mode: 0o2700 });
    expect((await stat(join(dir, "a/b"))).mode & 0o7777).toBe(0o755);
    expect((await stat(join(dir, "a/b/c"))).mode & 0o777).toBe(0o700);
    await guest.client.mkdir(join(dir, "a/b/c"), { parents: true });
    await symlink("a", join(dir, "l"));
    await guest.client.mkdir(join(dir, "l/x//y/"), { parents: true });
    expect(await exists(join(dir, "a/x/y"))).toBe(true);
    await expect(guest.client.mkdir(join(dir, "a"))).rejects.toMatchObject({ code: "file_exists" });
    await expect(guest.client.mkdir(join(dir, "q/r"))).rejects.toMatchObject({ code: "file_not_found" });
    await writeFile(join(dir, "f"), "");
    await expect(guest.client.mkdir(join(dir, "f"), { parents: true })).rejects.toMatchObject({
      code: "file_exists",
    });
    await expect(guest.client.mkdir(join(dir, "f/g"), { parents: true })).rejects.toMatchObject({
      code: "not_a_directory",
    });
  });

  it("rename, and keep what is there when asked", async () => {
    await writeFile(join(dir, "a"), "a");
    await writeFile(join(dir, "b"), "b");
    await expect(
      guest.client.rename(join(dir, "a"), join(dir, "b"), { noReplace: true }),
    ).rejects.toMatchObject({
      code: "file_exists",
    });
    await guest.client.rename(join(dir, "a"), join(dir, "b"));
    expect(await readFile(join(dir, "b"), "utf8")).toBe("a");
    await guest.client.rename(join(dir, "b"), join(dir, "c"), { noReplace: true });
    await mkdir(join(dir, "d/e"), { recursive: true });
    await expect(guest.client.rename(join(dir, "d"), join(dir, "d/e/f"))).rejects.toMatchObject({
      code: "invalid_request",
    });
    await expect(guest.client.rename(join(dir, "c"), join(dir, "d"))).rejects.toMatchObject({
      code: "not_a_file",
    });
    await expect(guest.client.rename(join(dir, "no"), join(dir, "x"))).rejects.toMatchObject({
      code: "file_not_found",
    });
    await expect(guest.client.rename(join(dir, "c"), "/proc/x")).rejects.toMatchObject({
      code: "unsupported",
    });
  });

  it("change permissions, through links", async () => {
    await writeFile(join(dir, "f"), "");
    await symlink("f", join(dir, "l"));
    await guest.client.chmod(join(dir, "l"), 0o7612);
    expect((await stat(join(dir, "f"))).mode & 0o7777).toBe(0o7612);
    await expect(guest.client.chmod(join(dir, "no"), 0o600)).rejects.toMatchObject({
      code: "file_not_found",
    });
    await expect(guest.client.chmod("/proc/self/exe", 0o600)).rejects.toMatchObject({ code: "invalid_path" });
  });
});

describe("remove", () => {
  it("takes files, links and empty directories; whole trees only when asked", async () => {
    await mkdir(join(dir, "t/u"), { recursive: true });
    await writeFile(join(dir, "t/u/f"), "");
    await writeFile(join(dir, "kept"), "");
    await symlink("kept", join(dir, "l"));
    await guest.client.remove(join(dir, "l"));
    expect(await readdir(dir)).toEqual(["kept", "t"]);
    await expect(guest.client.remove(join(dir, "t"))).rejects.toMatchObject({ code: "directory_not_empty" });
    await guest.client.remove(join(dir, "t/"), { recursive: true });
    await guest.client.remove(join(dir, "kept"), { recursive: true });
    expect(await readdir(dir)).toEqual([]);
    await expect(guest.client.remove(join(dir, "t"))).rejects.toMatchObject({ code: "file_not_found" });
    await guest.client.remove(join(dir, "t"), { missingOk: true, recursive: true });
    await guest.client.remove(join(dir, "t/x"), { missingOk: true });
  });

  it("refuses the root, and names that name nothing", async () => {
    await using other = await startGuest({ uid: 54_321 });
    for (const path of ["/", "//", "/tmp/.", "/tmp/.."]) {
      await expect(other.client.remove(path, { recursive: true }), path).rejects.toMatchObject({
        code: "invalid_path",
      });
    }
  });

  it("never goes through a link", async () => {
    await mkdir(join(dir, "outside"));
    await writeFile(join(dir, "outside/kept"), "");
    await mkdir(join(dir, "t/u"), { recursive: true });
    await symlink(join(dir, "outside"), join(dir, "t/u/link"));
    await symlink(join(dir, "outside"), join(dir, "top"));
    await guest.client.remove(join(dir, "t"), { recursive: true });
    await guest.client.remove(`${dir}/top/`, { recursive: true });
    expect(await exists(join(dir, "outside/kept"))).toBe(true);
    expect(await readdir(dir)).toEqual(["outside"]);
  });

  it("stays inside while directories and links are swapped under it", async () => {
    await mkdir(join(dir, "outside/deep"), { recursive: true });
    for (let i = 0; i < 20; i++) await writeFile(join(dir, `outside/deep/${i}`), "");
    const swapping = new AbortController();
    const swap = async (): Promise<void> => {
      while (!swapping.signal.aborted) {
        await mkdir(join(dir, "t/x/deep"), { recursive: true }).catch(() => {});
        await rename(join(dir, "t/x"), join(dir, "t/y")).catch(() => {});
        await symlink(join(dir, "outside"), join(dir, "t/x")).catch(() => {});
        await rename(join(dir, "t/y"), join(dir, "t/z")).catch(() => {});
      }
    };
    const swapper = swap();
    for (let i = 0; i < 50; i++) {
      await guest.client
        .remove(join(dir, "t"), { recursive: true, missingOk: true })
        .catch((error: unknown) => {
          expect(error).toMatchObject({
            code: expect.stringMatching(
              /directory_not_empty|permission_denied|file_not_found|not_a_directory/,
            ),
          });
        });
    }
    swapping.abort();
    await swapper;
    expect(await readdir(join(dir, "outside/deep"))).toHaveLength(20);
  });

  it("takes a tree that is 10 000 directories deep", async () => {
    // In memory: what counts is the depth, not the disk.
    const deep = await mkdtemp("/dev/shm/warren-guest-");
    try {
      const made = await run(guest, {
        argv: [
          "perl",
          "-e",
          'chdir $ARGV[0]; for (1..10000) { mkdir "d"; open F, ">f"; mkdir "e"; chdir "d" or die }',
          deep,
        ],
        env: {},
      });
      expect(made.exit_code).toBe(0);
      await guest.client.remove(deep, { recursive: true });
      expect(await exists(deep)).toBe(false);
    } finally {
      // Node's own rm() can't.
      execFileSync("rm", ["-rf", deep]);
    }
  });

  it("takes a wide tree", async () => {
    await run(
      guest,
      script('cd "$1" && for i in $(seq 200); do mkdir d$i && (cd d$i && seq 20 | xargs touch); done', dir),
    );
    await guest.client.remove(dir, { recursive: true });
    expect(await exists(dir)).toBe(false);
  });

  it("reports what it can't remove", async () => {
    await using plain = await startGuest({ uid: 54_321 });
    await mkdir(join(dir, "t/u"), { recursive: true });
    await writeFile(join(dir, "t/u/f"), "");
    await expect(plain.client.remove(join(dir, "t"), { recursive: true })).rejects.toMatchObject({
      code: "permission_denied",
    });
    expect(await exists(join(dir, "t/u/f"))).toBe(true);
  });
});

it("a file that is not the guest's to open is refused", async () => {
  await using plain = await startGuest({ uid: 54_321 });
  const path = join(dir, "secret");
  await (await open(path, "w", 0o600)).close();
  await expect(plain.client.readFile(path)).rejects.toMatchObject({ code: "permission_denied" });
  await expect(plain.client.writeFile(path, Buffer.from("x"))).rejects.toMatchObject({
    code: "permission_denied",
  });
});
