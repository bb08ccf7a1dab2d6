import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { GuestLogChunk, LogOffsets } from "../../src/guest/types.ts";
import {
  childrenOf,
  isSanitized,
  marked,
  newMark,
  processStatus,
  run,
  script,
  startGuest,
  type TestGuest,
  until,
} from "./harness.ts";

/** What LOGS tells of the main command, as it comes. */
function follow(guest: TestGuest, from: LogOffsets = { stdout: 0, stderr: 0 }) {
  const parts = { stdout: [] as Uint8Array[], stderr: [] as Uint8Array[] };
  const chunks: GuestLogChunk[] = [];
  const stop = new AbortController();
  const ended = (async () => {
    for await (const chunk of guest.client.logs(from, { signal: stop.signal })) {
      chunks.push(chunk);
      parts[chunk.stream].push(chunk.data);
    }
  })();
  ended.catch(() => {});
  return {
    chunks,
    stop,
    /** All of it has come. */
    ended,
    stdout: () => Buffer.concat(parts.stdout).toString(),
    stderr: () => Buffer.concat(parts.stderr).toString(),
  };
}

const main = (text: string, ...more: string[]) => ({ args: [...more, "--", "/bin/sh", "-c", text] });

describe("the main command", () => {
  it("gets the guest's environment, directory, user and output, and /dev/null", async () => {
    await using guest = await startGuest({
      ...main(
        "cat; pwd; id -u; echo $A; echo $HOME; echo err >&2; exit 7",
        "--main-cwd",
        "/usr",
        "--main-user",
        "nobody",
      ),
      env: { A: "from the guest", PATH: "/usr/bin:/bin" },
    });
    const waiting = guest.client.waitMain();
    expect(await waiting.started).toEqual({ hasMain: true });
    expect(await waiting.exit).toMatchObject({ exit_code: 7 });
    const log = follow(guest);
    await log.ended;
    expect(log.stdout()).toBe("/usr\n65534\nfrom the guest\n/nonexistent\n");
    expect(log.stderr()).toBe("err\n");
    expect(guest.stdout() + guest.stderr()).toBe("");
  });

  it("has its end told to all who wait, before and after", async () => {
    await using guest = await startGuest(main("read go < go.fifo; kill -TERM $$", "--main-cwd", "/tmp"));
    const early = guest.client.waitMain();
    expect(await early.started).toEqual({ hasMain: true });
    // Nothing to read there: the shell fails and kills itself.
    expect(await early.exit).toMatchObject({ exit_code: 143, signal: "SIGTERM" });
    expect(await guest.client.waitMain().exit).toMatchObject({ exit_code: 143, signal: "SIGTERM" });
    expect((await run(guest, script("echo still here"))).stdout).toBe("still here\n");
  });

  it("may be missing: then there is nothing to wait for but the guest's end", async () => {
    await using guest = await startGuest();
    const waiting = guest.client.waitMain();
    expect(await waiting.started).toEqual({ hasMain: false });
    await expect.poll(() => childrenOf(guest.pid)).toEqual([]);
    guest.process.kill("SIGKILL");
    await expect(waiting.exit).rejects.toMatchObject({ code: "guest_failed" });
  });

  it("that can't be started ends with 127 or 126 and says why", async () => {
    await using missing = await startGuest({ args: ["--", "no-such-program"] });
    expect(await missing.client.waitMain().exit).toMatchObject({ exit_code: 127 });
    const log = follow(missing);
    await log.ended;
    expect(log.stderr()).toContain("no-such-program");
    await using homeless = await startGuest({ args: ["--main-cwd", "/proc/no/such", "--", "true"] });
    expect(await homeless.client.waitMain().exit).toMatchObject({ exit_code: 126 });
    await using stranger = await startGuest({ args: ["--main-user", "no-such-user", "--", "true"] });
    expect(await stranger.client.waitMain().exit).toMatchObject({ exit_code: 126 });
  });

  it("that kills its supervisor is dead with all its children", async () => {
    const mark = newMark();
    await using guest = await startGuest({
      ...main("setsid sleep 1000 & sleep 0.2; kill -KILL $PPID; sleep 1000"),
      env: { MARK: mark, PATH: "/usr/bin:/bin" },
    });
    expect(await guest.client.waitMain().exit).toMatchObject({ exit_code: 137 });
    await until(async () => (await marked(mark)).every((pid) => pid === guest.pid));
  });

  it("may be given up on", async () => {
    await using guest = await startGuest(main("sleep 1000"));
    const stop = new AbortController();
    const waiting = guest.client.waitMain({ signal: stop.signal });
    await waiting.started;
    stop.abort();
    await expect(waiting.exit).rejects.toMatchObject({ code: "cancelled" });
  });
});

describe("the main command's output", () => {
  it("is told to each who asks, from where they ask, while it runs and after", async () => {
    await using guest = await startGuest(
      main("echo one; echo two >&2; read go < go.fifo; echo three", "--main-cwd", "/tmp"),
    );
    const [early, other] = [follow(guest), follow(guest)];
    await Promise.all([early.ended, other.ended]);
    const late = follow(guest, { stdout: 2, stderr: 4 });
    await late.ended;
    for (const log of [early, other]) expect(log.stdout()).toBe("one\nthree\n");
    expect(early.stderr()).toContain("two\n");
    expect(late.stdout()).toBe("e\nthree\n");
    expect(late.chunks[0]).toMatchObject({ stream: "stdout", offset: 2 });
    const beyond = follow(guest, { stdout: 1000, stderr: 0 });
    await expect(beyond.ended).rejects.toMatchObject({ code: "invalid_request" });
  });

  it("keeps its end, whole and in order, when nobody listened", async () => {
    await using guest = await startGuest(main("seq 100000; echo end >&2"));
    await guest.client.waitMain().exit;
    const log = follow(guest);
    await log.ended;
    const all = Array.from({ length: 100_000 }, (_, i) => `${i + 1}\n`).join("");
    const [first] = log.chunks.filter(({ stream }) => stream === "stdout");
    expect(first?.offset).toBe(all.length - (128 << 10));
    expect(log.stdout()).toBe(all.slice(first?.offset));
    expect(log.stderr()).toBe("end\n");
  });

  it("is never held up by a reader, and never told wrongly to a slow one", async () => {
    await using guest = await startGuest(main("seq 3000000"));
    const chunks = guest.client.logs({ stdout: 0, stderr: 0 }, { signal: new AbortController().signal });
    // The reader takes nothing until the command has ended.
    const reader = chunks[Symbol.asyncIterator]();
    const first = await reader.next();
    expect(first.done).toBe(false);
    await guest.client.waitMain().exit;
    const pieces: GuestLogChunk[] = [];
    for (let next = first; !next.done; next = await reader.next()) pieces.push(next.value);
    const lineAt = (offset: number) => {
      // The number whose line has this offset, for those with the same count of digits.
      for (let digits = 1, base = 0, low = 1; ; digits++, low *= 10) {
        const bytes = 9 * low * (digits + 1);
        if (offset < base + bytes) {
          const line = Math.floor((offset - base) / (digits + 1));
          return `${low + line}\n`.slice((offset - base) % (digits + 1));
        }
        base += bytes;
      }
    };
    for (const { offset, data } of pieces) {
      const text = Buffer.from(data).toString();
      const start = lineAt(offset).slice(0, text.length);
      expect(text.startsWith(start)).toBe(true);
      const after = lineAt(offset + start.length);
      expect(text.slice(start.length).startsWith(after.slice(0, text.length - start.length))).toBe(true);
    }
    const last = pieces.at(-1);
    expect(
      Buffer.from(last?.data ?? [])
        .toString()
        .endsWith("3000000\n"),
    ).toBe(true);
  });

  it("is nothing without a main command", async () => {
    await using guest = await startGuest();
    const log = follow(guest);
    await log.ended;
    expect(log.chunks).toEqual([]);
  });
});

describe("shutdown", () => {
  it("asks everything to end, and leaves with the main command's code", async () => {
    await using guest = await startGuest(
      main("trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done"),
    );
    const waiting = guest.client.waitMain();
    const log = follow(guest);
    await until(() => log.stdout() === "up\n");
    const other = await guest.client.spawn(
      script("trap 'exit 6' TERM; echo up; while :; do sleep 0.05; done"),
    );
    await other.output[Symbol.asyncIterator]().next();
    await guest.client.shutdown(10_000);
    expect(await waiting.exit).toMatchObject({ exit_code: 5 });
    expect(await other.exit).toMatchObject({ exit_code: 6 });
    expect(await guest.ended).toBe(5);
    await log.ended;
    expect(log.stdout()).toBe("up\nbye\n");
  });

  it("kills what does not end in time, setsid'd and stopped processes included", async () => {
    const mark = newMark();
    await using guest = await startGuest({
      ...main(
        "trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' & kill -STOP $$; while :; do sleep 1; done",
      ),
      env: { MARK: mark, PATH: "/usr/bin:/bin" },
    });
    const waiting = guest.client.waitMain();
    await until(async () => (await marked(mark)).length >= 5);
    await guest.client.shutdown(100);
    expect(await waiting.exit).toMatchObject({ exit_code: 137 });
    expect(await guest.ended).toBe(137);
    await expect.poll(() => marked(mark)).toEqual([]);
  });

  it("comes with SIGTERM too, at once when nothing runs", async () => {
    await using guest = await startGuest();
    guest.process.kill("SIGTERM");
    expect(await guest.ended).toBe(0);
    await expect(guest.client.hello()).rejects.toMatchObject({ code: "guest_failed" });
  });

  it("is shortened by a second, shorter one", async () => {
    await using guest = await startGuest(main("trap '' TERM; echo up; while :; do sleep 1; done"));
    const log = follow(guest);
    await until(() => log.stdout() === "up\n");
    await guest.client.shutdown(1_000_000);
    guest.process.kill("SIGTERM");
    expect(await guest.ended).toBe(137);
  });

  it("kills the payloads of a guest that dies without one", async () => {
    const mark = newMark();
    await using guest = await startGuest({
      ...main("sleep 1000"),
      env: { MARK: mark, PATH: "/usr/bin:/bin" },
    });
    await guest.client.waitMain().started;
    const session = await guest.client.spawn({
      ...script("sleep 1000"),
      env: { MARK: mark, PATH: "/usr/bin:/bin" },
    });
    guest.process.kill("SIGKILL");
    await expect(session.exit).rejects.toMatchObject({ code: "guest_failed" });
    await until(async () => (await marked(mark)).length === 0);
  });
});

describe("the program", () => {
  it.skipIf(isSanitized)("is small, on disk and in memory, and silent [not under sanitizers]", async () => {
    await using guest = await startGuest();
    expect(statSync(`/proc/${guest.pid}/exe`).size).toBeLessThan(170_000);
    await guest.client.hello();
    expect((await processStatus(guest.pid)).rssKiB).toBeLessThan(200);
    expect(guest.stdout() + guest.stderr()).toBe("");
  });

  it("is the first process of a sandbox as well as any other", async () => {
    // A pid namespace with its own /proc, as a runtime makes it.
    await using guest = await startGuest({
      wrapper: ["unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"],
    });
    const pids = await run(
      guest,
      script("echo $PPID; cat /proc/1/comm; (setsid sleep 1000 & ) ; ls -d /proc/[0-9]*"),
    );
    expect(pids.stdout).toContain("warren-guest");
    const result = await run(guest, { ...script("(setsid sleep 1000 &) ; sleep 1000"), timeoutMs: 300 });
    expect(result).toMatchObject({ exit_code: 124 });
    await guest.client.shutdown(5000);
    expect(await guest.ended).toBe(0);
  });

  it("works without /proc, as well as it can", async () => {
    await using guest = await startGuest({
      wrapper: [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        'umount -l /proc; exec "$@"',
        "sh",
      ],
    });
    const path = join(guest.dir, "f");
    await guest.client.writeFile(path, Buffer.from("x"));
    expect(readFileSync(path, "utf8")).toBe("x");
    const result = await run(guest, { ...script("sleep 1000 & sleep 1000"), timeoutMs: 300 });
    expect(result).toMatchObject({ exit_code: 124 });
    await guest.client.shutdown(0);
    await guest.ended;
  });

  it("refuses a command line that it does not know", async () => {
    const { execFileSync } = await import("node:child_process");
    const { nativeProgram } = await import("../../src/lib/native.ts");
    for (const args of [
      [],
      ["--fd", "x"],
      ["--fd", "3", "--listen", "/x"],
      ["--what", "1"],
      ["--listen"],
      ["--fd", "99"],
    ]) {
      expect(
        () => execFileSync(nativeProgram("warren-guest"), args, { stdio: "pipe" }),
        args.join(" "),
      ).toThrow();
    }
  });
});
