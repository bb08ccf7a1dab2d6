import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { expect } from "vitest";
import type { ApiContext } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";
import { readAll } from "./guest-tools.ts";
import { oddNames } from "./odd-names.ts";
import { eventually, within } from "./wait.ts";

const MIB = 1024 ** 2;

/** Files, and what paths and file types can do to those who handle them. */
export function testApiFiles({ test, fixture }: ApiContext): void {
  const read = async (id: string, path: string) =>
    await readAll((await fixture().api.files.read(id, path)).body);

  test("carries files of any name and any bytes", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    for (const name of oddNames) {
      const path = `/opt/odd/${name}`;
      expect(await api.files.write(id, path, bytes)).toEqual({ bytes: 256 });
      const { info, body } = await api.files.read(id, path);
      expect(info).toMatchObject({ name, path, size: 256, type: "file", is_dir: false });
      expect((await readAll(body)).equals(bytes)).toBe(true);
      expect(await api.files.stat(id, path)).toEqual(info);
    }
    const listed = await api.files.list(id, "/opt/odd");
    expect(listed.map((entry) => entry.name).sort()).toEqual([...oddNames].sort());
    expect(listed.map((entry) => entry.path).sort()).toEqual(oddNames.map((n) => `/opt/odd/${n}`).sort());
    for (const name of oddNames) await api.files.remove(id, `/opt/odd/${name}`);
    expect(await api.files.list(id, "/opt/odd")).toEqual([]);
  });

  test("streams large files, and parts of them", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    const chunk = randomBytes(MIB);
    async function* chunks() {
      for (let i = 0; i < 8; i++) yield chunk;
    }
    expect(await api.files.write(id, "/opt/big", chunks())).toEqual({ bytes: 8 * MIB });
    expect((await read(id, "/opt/big")).equals(Buffer.concat(Array(8).fill(chunk)))).toBe(true);
    const part = await api.files.read(id, "/opt/big", { offset: 2 * MIB - 1, length: 2 });
    expect([...(await readAll(part.body))]).toEqual([chunk.at(-1), chunk[0]]);
    const past = await api.files.read(id, "/opt/big", { offset: 9 * MIB });
    expect((await readAll(past.body)).length).toBe(0);
    await api.files.write(id, "/opt/empty", new Uint8Array());
    expect((await read(id, "/opt/empty")).length).toBe(0);
  });

  test("replaces a file in one step and keeps its mode", async () => {
    const { api, box, shell } = fixture();
    const { id } = await box();
    await api.files.write(id, "/opt/own/f", Buffer.from("old"), { mode: 0o751 });
    await shell(id, "ln -s f /opt/own/link");
    await api.files.write(id, "/opt/own/link", Buffer.from("new"));
    expect(await api.files.stat(id, "/opt/own/f")).toMatchObject({ permissions: 0o751, size: 3 });
    expect(await api.files.stat(id, "/opt/own/link")).toMatchObject({ type: "symlink", target: "f" });
    await api.files.write(id, "/opt/own/f", Buffer.from(" and more"), { append: true });
    expect((await read(id, "/opt/own/f")).toString()).toBe("new and more");
    async function* broken() {
      yield Buffer.from("half");
      throw new Error("the reader of the source broke");
    }
    await expect(api.files.write(id, "/opt/own/f", broken())).rejects.toThrow();
    expect((await read(id, "/opt/own/f")).toString()).toBe("new and more");
    await eventually("no temporary file", async () => (await api.files.list(id, "/opt/own")).length === 2);
  });

  test("makes parents unless told not to", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    await api.files.write(id, "/opt/a/b/c", Buffer.from("x"));
    const write = api.files.write(id, "/opt/x/y", Buffer.from("x"), { parents: false });
    await expectFailure(write, "file_not_found");
    await api.files.mkdir(id, "/opt/m/n");
    await api.files.mkdir(id, "/opt/m/n");
    expect(await api.files.stat(id, "/opt/m/n")).toMatchObject({ type: "directory", is_dir: true });
    await expectFailure(api.files.mkdir(id, "/opt/a/b/c"), "file_exists", "not_a_directory");
  });

  test("moves, marks and removes", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    await api.files.write(id, "/opt/from", Buffer.from("x"));
    await api.files.rename(id, "/opt/from", "/opt/to");
    await expectFailure(api.files.stat(id, "/opt/from"), "file_not_found");
    await api.files.chmod(id, "/opt/to", 0o4700);
    expect(await api.files.stat(id, "/opt/to")).toMatchObject({ permissions: 0o4700, mode: "-rws------" });
    for (const mode of [-1, 0o10000, 1.5]) {
      await expectFailure(api.files.chmod(id, "/opt/to", mode), "invalid_request");
    }
    await api.files.write(id, "/opt/tree/deep/file", Buffer.from("x"));
    await api.files.remove(id, "/opt/tree");
    await expectFailure(api.files.list(id, "/opt/tree"), "file_not_found");
    await api.files.remove(id, "/opt/tree");
    await expectFailure(api.files.remove(id, "/"), "invalid_path");
  });

  test("tells what a path is, with its real times", async () => {
    const { api, box, shell } = fixture();
    const { id } = await box();
    const script =
      "cd /opt; echo x > file; touch -d '2001-02-03 04:05:06 UTC' file; mkdir dir; ln -s nowhere link; mkfifo fifo";
    await shell(id, script);
    const infos = Object.fromEntries((await api.files.list(id, "/opt")).map((info) => [info.name, info]));
    expect(infos).toMatchObject({
      file: { type: "file", size: 2, uid: 0, gid: 0, path: "/opt/file" },
      dir: { type: "directory", is_dir: true },
      link: { type: "symlink", target: "nowhere", is_dir: false },
      fifo: { type: "fifo" },
    });
    expect(Date.parse(infos.file?.mod_time ?? "")).toBe(Date.UTC(2001, 1, 3, 4, 5, 6));
    expect(await api.files.stat(id, "/dev/null")).toMatchObject({ type: "char_device" });
    expect(await api.files.stat(id, "/")).toMatchObject({ path: "/", type: "directory" });
  });

  test("refuses paths that are none", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    for (const path of ["", "relative", "./x", "nul\0", "/nul\0byte", `/${"x".repeat(4096)}`]) {
      const calls = [
        api.files.read(id, path),
        api.files.write(id, path, Buffer.from("x")),
        api.files.remove(id, path),
        api.files.list(id, path),
        api.files.stat(id, path),
        api.files.mkdir(id, path),
        api.files.rename(id, path, "/opt/x"),
        api.files.rename(id, "/opt/x", path),
        api.files.chmod(id, path, 0o600),
      ];
      for (const call of calls) await expectFailure(call, "invalid_path");
    }
    await expectFailure(api.files.stat(id, `/${"x".repeat(256)}`), "invalid_path");
  });

  test("tells apart what is missing, a directory, and no directory", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    await expectFailure(read(id, "/opt/missing"), "file_not_found");
    await expectFailure(api.files.stat(id, "/opt/missing"), "file_not_found");
    await expectFailure(api.files.list(id, "/opt/missing"), "file_not_found");
    await expectFailure(api.files.rename(id, "/opt/missing", "/opt/x"), "file_not_found");
    await expectFailure(api.files.chmod(id, "/opt/missing", 0o600), "file_not_found");
    await expectFailure(read(id, "/opt"), "not_a_file");
    await expectFailure(api.files.write(id, "/opt", Buffer.from("x")), "not_a_file");
    await expectFailure(api.files.list(id, "/etc/passwd"), "not_a_directory");
    await expectFailure(read(id, "/etc/passwd/x"), "not_a_directory");
  });

  test("never opens a FIFO, a device or a socket", async () => {
    const { api, box, shell } = fixture();
    const { id } = await box();
    const perl = "use IO::Socket::UNIX; IO::Socket::UNIX->new(Listen => 1, Local => '/opt/socket')";
    await shell(
      id,
      `mkfifo /opt/fifo; perl -e "${perl}"; ln -s /opt/fifo /opt/link; ln -s /dev/zero /opt/zero`,
    );
    for (const path of ["/opt/fifo", "/opt/link", "/opt/zero", "/dev/zero", "/dev/tty", "/opt/socket"]) {
      await within(5000, `read ${path}`, expectFailure(read(id, path), "not_a_file"));
      const write = api.files.write(id, path, Buffer.from("x"));
      await within(5000, `write ${path}`, expectFailure(write, "not_a_file"));
    }
    expect(await api.files.stat(id, "/opt/fifo")).toMatchObject({ type: "fifo" });
  });

  test("stays inside, whatever links and dots there are", async () => {
    const { api, box, shell } = fixture();
    const { id } = await box();
    const name = `warren-outside-${randomBytes(6).toString("hex")}`;
    await shell(
      id,
      "ln -s /tmp /opt/tmp; ln -s / /opt/root; ln -s ../../../../../tmp /opt/up; ln -s loop /opt/loop",
    );
    const paths = ["/opt/tmp", "/opt/root/tmp", "/opt/up", "/tmp/../../../tmp", "/proc/1/root/tmp"];
    for (const [index, path] of paths.entries()) {
      const file = `${name}-${index}`;
      const written = await api.files.write(id, `${path}/${file}`, Buffer.from("x")).then(
        () => true,
        () => false, // refusing is as good
      );
      expect(existsSync(`/tmp/${file}`), path).toBe(false);
      if (written) expect(await api.files.stat(id, `/tmp/${file}`)).toMatchObject({ size: 1 });
    }
    await expectFailure(read(id, "/opt/loop"), "invalid_path");
  });

  test("reads files of /proc, whose size is not told", async () => {
    const { box } = fixture();
    const { id } = await box();
    expect((await read(id, "/proc/cpuinfo")).length).toBeGreaterThan(10);
  });

  test("tells of changes below a directory", async () => {
    const { api, box, shell } = fixture();
    const { id } = await box();
    await api.files.mkdir(id, "/opt/watched");
    const stop = new AbortController();
    const seen: string[] = [];
    const watching = (async () => {
      const events = api.files.watch(id, "/opt/watched", { recursive: true, signal: stop.signal });
      for await (const event of events) seen.push(`${event.type} ${event.path}`);
    })().catch(() => {});
    // The watch has begun when a change is seen.
    await eventually("a first event", async () => {
      await api.files.write(id, "/opt/watched/first", Buffer.from("x"));
      return seen.length > 0;
    });
    await shell(id, "mkdir /opt/watched/sub; echo x > /opt/watched/second; rm /opt/watched/second");
    await eventually("the creation", () => seen.includes("create /opt/watched/second"));
    await eventually("the deletion", () => seen.includes("delete /opt/watched/second"));
    await eventually("a change further down", async () => {
      await shell(id, "echo x > /opt/watched/sub/third");
      return seen.some((line) => line.endsWith(" /opt/watched/sub/third"));
    });
    stop.abort();
    await within(10_000, "the watch to end", watching);
  });

  test("lets a caller give up on a transfer", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    const stop = new AbortController();
    async function* slow() {
      yield Buffer.from("begin");
      stop.abort();
      await new Promise((resolve) => setTimeout(resolve, 50));
      yield Buffer.from("more");
    }
    const write = api.files.write(id, "/opt/given-up", slow(), { signal: stop.signal });
    await within(10_000, "the write", expectFailure(write, "cancelled"));
    await expectFailure(api.files.stat(id, "/opt/given-up"), "file_not_found");
    await api.files.write(id, "/opt/large", Buffer.alloc(4 * MIB));
    const { body } = await api.files.read(id, "/opt/large");
    for await (const _ of body) break;
    expect(await api.files.stat(id, "/opt/large")).toMatchObject({ size: 4 * MIB });
  });
}
