import {
  chmod,
  chown,
  link,
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  stat,
  symlink,
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

const text = (path: string) => readFile(path, "utf8");

/** Sends one chunk, then stays silent. */
function hangingBody(first: string): { body: AsyncIterable<Uint8Array>; hasStarted: Promise<void> } {
  let started = (): void => {};
  const hasStarted = new Promise<void>((resolve) => {
    started = resolve;
  });
  return {
    hasStarted,
    body: {
      async *[Symbol.asyncIterator]() {
        yield Buffer.from(first);
        started();
        await new Promise(() => {});
      },
    },
  };
}

describe("write", () => {
  it("makes a file of any size, in pieces of any size", async () => {
    const path = join(dir, "f");
    expect(await guest.client.writeFile(path, Buffer.of())).toEqual({ bytes: 0 });
    expect((await stat(path)).size).toBe(0);
    expect((await stat(path)).mode & 0o7777).toBe(0o644);
    const pieces = [1, 0, 131_071, 131_072, 131_073, 700_000].map((size, i) => Buffer.alloc(size, 97 + i));
    async function* body() {
      yield* pieces;
    }
    const whole = Buffer.concat(pieces);
    expect(await guest.client.writeFile(path, body())).toEqual({ bytes: whole.length });
    expect((await readFile(path)).equals(whole)).toBe(true);
    expect(await readdir(dir)).toEqual(["f"]);
  });

  it("keeps an old file's mode and owner, unless a mode is given", async () => {
    const path = join(dir, "f");
    await writeFile(path, "old and longer");
    await chown(path, 1234, 5678);
    await chmod(path, 0o4751);
    await guest.client.writeFile(path, Buffer.from("new"));
    expect(await text(path)).toBe("new");
    expect(await stat(path)).toMatchObject({ uid: 1234, gid: 5678, mode: 0o104751 });
    await guest.client.writeFile(path, Buffer.from("new"), { mode: 0o600 });
    expect((await stat(path)).mode & 0o7777).toBe(0o600);
    await guest.client.writeFile(join(dir, "g"), Buffer.from("x"), { mode: 0o755 });
    expect((await stat(join(dir, "g"))).mode & 0o7777).toBe(0o755);
  });

  it("makes parents, unless told not to", async () => {
    await guest.client.writeFile(join(dir, "a/b/c"), Buffer.from("x"));
    expect((await stat(join(dir, "a/b"))).mode & 0o7777).toBe(0o755);
    await expect(
      guest.client.writeFile(join(dir, "q/r"), Buffer.from("x"), { parents: false }),
    ).rejects.toMatchObject({
      code: "file_not_found",
    });
    await expect(guest.client.writeFile(join(dir, "a/b/c/d"), Buffer.from("x"))).rejects.toMatchObject({
      code: "not_a_directory",
    });
  });

  it("appends", async () => {
    const path = join(dir, "f");
    await guest.client.writeFile(path, Buffer.from("one "), { append: true, mode: 0o640 });
    await guest.client.writeFile(path, Buffer.from("two"), { append: true });
    expect(await text(path)).toBe("one two");
    expect((await stat(path)).mode & 0o7777).toBe(0o640);
  });

  it("follows a link to the file that it names, and leaves the link", async () => {
    await mkdir(join(dir, "real"));
    await writeFile(join(dir, "real/f"), "old");
    await symlink("real/f", join(dir, "one"));
    await symlink(join(dir, "one"), join(dir, "two"));
    await guest.client.writeFile(join(dir, "two"), Buffer.from("new"));
    expect(await text(join(dir, "real/f"))).toBe("new");
    expect(await readlink(join(dir, "two"))).toBe(join(dir, "one"));
    await symlink("real/made", join(dir, "dangling"));
    await guest.client.writeFile(join(dir, "dangling"), Buffer.from("made"));
    expect(await text(join(dir, "real/made"))).toBe("made");
    expect((await lstat(join(dir, "dangling"))).isSymbolicLink()).toBe(true);
  });

  it("never writes through the magic links of /proc", async () => {
    const session = await guest.client.spawn({
      ...script('exec 3<"$1"; exec sleep 1000', join(guest.dir, "..")),
      cwd: dir,
    });
    for (const path of [
      `/proc/${session.pid}/exe`,
      `/proc/${session.pid}/fd/0`,
      `/proc/${session.pid}/cwd/f`,
    ]) {
      await expect(guest.client.writeFile(path, Buffer.from("x")), path).rejects.toMatchObject({
        code: "invalid_path",
      });
    }
    expect(await readdir(dir)).toEqual([]);
    await session.kill();
  });

  it("shows a reader the old bytes or the new ones", async () => {
    const path = join(dir, "f");
    const versions = ["a", "b"].map((letter) => Buffer.alloc(200_000, letter));
    await guest.client.writeFile(path, versions[0] as Buffer);
    let isDone = false;
    const reading = (async () => {
      for (let reads = 0; !isDone || reads < 5; reads++) {
        const seen = await bytesOf((await guest.client.readFile(path)).body);
        expect(versions.some((v) => v.equals(seen))).toBe(true);
      }
    })();
    for (let i = 0; i < 30; i++) await guest.client.writeFile(path, versions[i % 2] as Buffer);
    isDone = true;
    await reading;
  });

  it.each([false, true])("leaves a program that can be run at once (append: %s)", async (append) => {
    // The kernel runs no file that somebody has open for writing. Many at a time, so that those who wrote have little time to end.
    const bytes = await readFile("/bin/busybox");
    const each = async (_: unknown, i: number) => {
      const path = join(dir, `${i}/busybox`);
      await guest.client.writeFile(path, bytes, { mode: 0o755, append });
      return (await run(guest, { argv: [path, "true"], env: {} })).stderr;
    };
    expect(new Set(await Promise.all(Array.from({ length: 100 }, each)))).toEqual(new Set([""]));
  });

  it("of 128 MiB grows no handler", async () => {
    const block = Buffer.alloc(1 << 20, 7);
    let peakKiB = 0;
    async function* body() {
      for (let i = 0; i < 128; i++) {
        yield block;
        if (i % 32 === 31) peakKiB = Math.max(peakKiB, await largestChild(guest.pid));
      }
    }
    expect(await guest.client.writeFile(join(dir, "big"), body())).toEqual({ bytes: 128 << 20 });
    expect(peakKiB).toBeGreaterThan(0);
    expect(peakKiB).toBeLessThan(HANDLER_RSS_KIB);
  });
});

describe("a broken transfer", () => {
  for (const append of [false, true]) {
    it(`leaves the old file as it was and nothing else (append: ${append})`, async () => {
      const path = join(dir, "f");
      await writeFile(path, "old");
      const failing = (async function* () {
        yield Buffer.from("half of the new");
        throw new Error("the sender broke");
      })();
      await expect(guest.client.writeFile(path, failing, { append })).rejects.toThrow("the sender broke");
      const stop = new AbortController();
      const { body, hasStarted } = hangingBody("half");
      const writing = guest.client.writeFile(path, body, { append, signal: stop.signal });
      await hasStarted;
      stop.abort();
      await expect(writing).rejects.toMatchObject({ code: "cancelled" });
      const fresh = hangingBody("half");
      const stopFresh = new AbortController();
      const making = guest.client.writeFile(join(dir, "fresh"), fresh.body, {
        append,
        signal: stopFresh.signal,
      });
      await fresh.hasStarted;
      stopFresh.abort();
      await expect(making).rejects.toMatchObject({ code: "cancelled" });
      await until(async () => (await childrenOf(guest.pid)).length === 0);
      expect(await text(path)).toBe("old");
      expect(await readdir(dir)).toEqual(["f"]);
    });
  }

  it("by the end of the guest leaves nothing behind", async () => {
    await using other = await startGuest();
    await writeFile(join(dir, "f"), "old");
    const { body, hasStarted } = hangingBody("half");
    const writing = other.client.writeFile(join(dir, "f"), body);
    await hasStarted;
    await Promise.all([
      expect(writing).rejects.toMatchObject({ code: "guest_failed" }),
      other.client.shutdown(0),
    ]);
    await other.ended;
    expect(await readdir(dir)).toEqual(["f"]);
    expect(await text(join(dir, "f"))).toBe("old");
  });

  it("is told while the body is still to come", async () => {
    const { body } = hangingBody("x");
    await expect(guest.client.writeFile(dir, body)).rejects.toMatchObject({ code: "not_a_file" });
  });

  it("is told in the middle of a large body", async () => {
    // Too small for the body, so that the disk is full before its end.
    await using full = await startGuest({ wrapper: ["unshare", "--mount", "--propagation", "private"] });
    const mounted = await run(full, script('mount -t tmpfs -o size=1m tmpfs "$1"', dir));
    expect(mounted).toMatchObject({ exit_code: 0, stderr: "" });
    await full.client.writeFile(join(dir, "f"), Buffer.from("old"));
    await expect(full.client.writeFile(join(dir, "f"), Buffer.alloc(16 << 20))).rejects.toMatchObject({
      code: "no_space",
    });
    expect((await bytesOf((await full.client.readFile(join(dir, "f"))).body)).toString()).toBe("old");
    expect((await full.client.list(dir)).map((i) => i.name)).toEqual(["f"]);
  });
});

describe("where no other file can take a file's place", () => {
  it("a mounted file is rewritten in place", async () => {
    await using mounted = await startGuest({ wrapper: ["unshare", "--mount", "--propagation", "private"] });
    const source = join(dir, "source");
    const target = join(dir, "target");
    await writeFile(source, "old and longer");
    await writeFile(target, "");
    await run(mounted, script('mount --bind "$1" "$2"', source, target));
    await mounted.client.writeFile(target, Buffer.from("new"), { mode: 0o600 });
    expect(await text(source)).toBe("new");
    expect((await stat(source)).mode & 0o7777).toBe(0o600);
    expect((await readdir(dir)).sort()).toEqual(["source", "target"]);
  });

  it("a file in a read-only directory is rewritten in place, and only when all has come", async () => {
    await using mounted = await startGuest({ wrapper: ["unshare", "--mount", "--propagation", "private"] });
    const source = join(dir, "source");
    const closed = join(dir, "closed");
    await mkdir(closed);
    await writeFile(source, "old");
    await writeFile(join(closed, "f"), "");
    const text0 = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && mount --bind "$2" "$1/f"';
    expect(await run(mounted, script(text0, closed, source))).toMatchObject({ exit_code: 0, stderr: "" });
    const { body, hasStarted } = hangingBody("half");
    const stop = new AbortController();
    const writing = mounted.client.writeFile(join(closed, "f"), body, { signal: stop.signal });
    await hasStarted;
    stop.abort();
    await expect(writing).rejects.toMatchObject({ code: "cancelled" });
    await until(async () => (await childrenOf(mounted.pid)).length === 0);
    expect(await text(source)).toBe("old");
    await mounted.client.writeFile(join(closed, "f"), Buffer.from("new"));
    expect(await text(source)).toBe("new");
    await expect(mounted.client.writeFile(join(closed, "g"), Buffer.from("x"))).rejects.toMatchObject({
      code: "permission_denied",
      message: expect.stringContaining("read-only"),
    });
    await expect(mounted.client.mkdir(join(closed, "d"))).rejects.toMatchObject({
      code: "permission_denied",
    });
  });

  it("a file of another owner is rewritten in place by a guest that may not give files away", async () => {
    await using plain = await startGuest({ uid: 54_321 });
    const path = join(plain.dir, "f");
    await writeFile(path, "old");
    await chmod(path, 0o666);
    await link(path, join(dir, "same"));
    await plain.client.writeFile(path, Buffer.from("new"));
    expect(await stat(path)).toMatchObject({ uid: 0, mode: 0o100666 });
    expect(await text(join(dir, "same"))).toBe("new");
  });
});

it("a name of 255 bytes and a path of nearly 4 KiB are fine", async () => {
  const long = join(dir, "n".repeat(255));
  await guest.client.writeFile(long, Buffer.from("x"));
  expect(await exists(long)).toBe(true);
  const deep = join(dir, ...Array(Math.floor((4000 - dir.length) / 201)).fill("d".repeat(200)), "f");
  await guest.client.writeFile(deep, Buffer.from("deep"));
  expect(await text(deep)).toBe("deep");
});
