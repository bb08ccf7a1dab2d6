import { mkdir, rename, rm, symlink, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, expect, it } from "vitest";
import type { WatchEvent } from "../../src/contracts/files.ts";
import { childrenOf, drain, frame, run, script, startGuest, type TestGuest, until } from "./harness.ts";

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

interface Watching extends AsyncDisposable {
  events: WatchEvent[];
  /** Waits until there is such an event. */
  see(type: WatchEvent["type"], path: string): Promise<WatchEvent>;
}

async function watching(path: string, options: { recursive?: boolean } = {}): Promise<Watching> {
  const stop = new AbortController();
  const events: WatchEvent[] = [];
  const reading = (async () => {
    for await (const event of guest.client.watch(path, { ...options, signal: stop.signal }))
      events.push(event);
  })();
  let failure: unknown;
  reading.catch((error: unknown) => {
    failure = error;
  });
  // The watch is on once a change is seen.
  const probe = join(path, ".probe");
  await until(async () => {
    await writeFile(probe, String(Math.random()));
    return events.length > 0 || failure !== undefined;
  });
  await unlink(probe);
  if (failure !== undefined) throw failure;
  return {
    events,
    see: (type, at) => until(() => events.find((e) => e.type === type && e.path === at)),
    async [Symbol.asyncDispose]() {
      stop.abort();
      await expect(reading).rejects.toMatchObject({ code: "cancelled" });
    },
  };
}

it("tells of what happens to a directory's entries", async () => {
  await using w = await watching(dir);
  const a = join(dir, "a\n'");
  await writeFile(a, "x");
  await w.see("create", a);
  await w.see("modify", a);
  await rename(a, join(dir, "b"));
  await w.see("rename", a);
  await w.see("rename", join(dir, "b"));
  await guest.client.chmod(join(dir, "b"), 0o600);
  await w.see("attrib", join(dir, "b"));
  await unlink(join(dir, "b"));
  await w.see("delete", join(dir, "b"));
  await mkdir(join(dir, "d"));
  await w.see("create", join(dir, "d"));
  await writeFile(join(dir, "d/inside"), "");
  await writeFile(join(dir, "last"), "");
  await w.see("create", join(dir, "last"));
  expect(w.events.filter((e) => e.path.endsWith("inside"))).toEqual([]);
});

it("follows the directories below, new and moved ones too, but no links", async () => {
  await mkdir(join(dir, "old/deep"), { recursive: true });
  await mkdir(join(guest.dir, "elsewhere"), { recursive: true });
  await symlink(join(guest.dir, "elsewhere"), join(dir, "link"));
  await using w = await watching(dir, { recursive: true });
  await writeFile(join(dir, "old/deep/f"), "");
  await w.see("create", join(dir, "old/deep/f"));
  // Made at once: what is there before the new directory is watched must be told too.
  await mkdir(join(dir, "new/x/y"), { recursive: true });
  await writeFile(join(dir, "new/x/y/f"), "");
  await w.see("create", join(dir, "new/x/y/f"));
  await rename(join(dir, "new"), join(dir, "moved"));
  await w.see("rename", join(dir, "moved"));
  await writeFile(join(dir, "moved/x/y/g"), "");
  await w.see("create", join(dir, "moved/x/y/g"));
  await writeFile(join(guest.dir, "elsewhere/h"), "");
  await rm(join(dir, "moved"), { recursive: true });
  await w.see("delete", join(dir, "moved"));
  expect(w.events.filter((e) => e.path.endsWith("/h"))).toEqual([]);
  expect(w.events.filter((e) => e.path.startsWith(join(dir, "new/")) && e.path.endsWith("g"))).toEqual([]);
});

it("watches one file", async () => {
  const path = join(dir, "f");
  await writeFile(path, "");
  const stop = new AbortController();
  const events = guest.client.watch(path, { signal: stop.signal })[Symbol.asyncIterator]();
  const first = events.next();
  const writing = setInterval(() => void writeFile(path, "y").catch(() => {}), 20);
  expect(await first).toMatchObject({ value: { type: "modify", path } });
  clearInterval(writing);
  stop.abort();
  await expect(
    (async () => {
      while (!(await events.next()).done);
    })(),
  ).rejects.toMatchObject({ code: "cancelled" });
});

it("fails for what is missing", async () => {
  const signal = new AbortController().signal;
  const watch = async (path: string) => {
    for await (const _ of guest.client.watch(path, { signal }));
  };
  await expect(watch(join(dir, "no"))).rejects.toMatchObject({ code: "file_not_found" });
  await expect(watch(join(dir, "no"))).rejects.toMatchObject({ message: expect.stringContaining("no") });
  await expect(watch("/proc/self/cwd")).rejects.toMatchObject({ code: "invalid_path" });
  expect(() => guest.client.watch("relative", { signal })).toThrow(
    expect.objectContaining({ code: "invalid_path" }),
  );
});

it("fails for more directories than can be watched", async () => {
  await run(guest, script('cd "$1" && seq -f "%g" 1 8300 | xargs mkdir', dir));
  const events = guest.client.watch(dir, { recursive: true, signal: new AbortController().signal });
  await expect(events[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: "too_large" });
});

it("ends in the guest when its reader goes", async () => {
  const events = guest.client.watch(dir, { signal: new AbortController().signal });
  const writing = setInterval(() => void writeFile(join(dir, "f"), "y").catch(() => {}), 20);
  for await (const _ of events) break;
  clearInterval(writing);
  await until(async () => (await childrenOf(guest.pid)).length === 0);
});

it("tells a reader who is too slow that events were lost", async () => {
  const socket = await guest.connect();
  const path = Buffer.from(dir);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(path.length);
  socket.write(frame(0x18, Buffer.concat([length, path, Buffer.alloc(4)])));
  await new Promise<void>((resolve) => socket.once("data", () => resolve()));
  socket.pause();
  // Over what the socket and the kernel's queue of 16384 events hold.
  await run(guest, script('cd "$1" && seq -f "file-with-a-longer-name-%g" 1 15000 | xargs touch', dir));
  const received = drain(socket);
  socket.resume();
  const overflow = Buffer.from([6, 0, 0, 0]);
  let seen = Buffer.alloc(0);
  socket.on("data", (part: Buffer) => {
    seen = Buffer.concat([seen, part]);
  });
  await until(() => seen.includes(Buffer.concat([overflow, length, path])));
  socket.destroy();
  await received;
});
