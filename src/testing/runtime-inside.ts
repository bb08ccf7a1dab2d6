import { once } from "node:events";
import { expect } from "vitest";
import { expectFailure } from "./failures.ts";
import { commandLinesInside, readAll, runInside, shellInside } from "./guest-tools.ts";
import { oddNames } from "./odd-names.ts";
import type { RuntimeContext } from "./runtime-fixture.ts";
import { eventually, longEnough, within } from "./wait.ts";

/** What happens inside, seen through the runtime's connection. */
export function testInside({ test, fixture, unless }: RuntimeContext): void {
  test("keeps stdout and stderr apart, and tells the exit code", async () => {
    const { guest } = await fixture().box();
    const result = await shellInside(guest, "echo out; echo err >&2; exit 7");
    expect(result).toMatchObject({ stdout: "out\n", stderr: "err\n", exit_code: 7 });
  });

  test("passes arguments and variables as they are", async () => {
    const { guest } = await fixture().box();
    const args = ["", " ", "a b", "$HOME", "`id`", "new\nline", "ü", "'\"\\", "--", "*"];
    const result = await runInside(guest, ["printf", "[%s]", ...args]);
    expect(result.stdout).toBe(args.map((arg) => `[${arg}]`).join(""));
    const env = { A: "x y\nz=ü", EMPTY: "" };
    const shown = await runInside(guest, ["/usr/bin/env", "-0"], { env });
    expect(shown.stdout.split("\0")).toEqual(expect.arrayContaining(["A=x y\nz=ü", "EMPTY="]));
    // Nothing of the host's environment comes in.
    const names = shown.stdout.split("\0").map((line) => line.split("=")[0]);
    expect(
      names.filter((name) => name && !["A", "EMPTY", "PATH", "HOME", "USER", "LOGNAME"].includes(name)),
    ).toEqual([]);
  });

  test("runs in a directory, as a user", async () => {
    const { guest } = await fixture().box();
    expect((await shellInside(guest, "pwd; id -u", { cwd: "/usr/bin" })).stdout).toBe("/usr/bin\n0\n");
    await expectFailure(shellInside(guest, "pwd", { cwd: "/nonexistent" }), "file_not_found");
    await expectFailure(shellInside(guest, "pwd", { user: "no-such-user" }), "invalid_request");
  });

  test(
    "runs as another user, by number and by name",
    async () => {
      const { guest } = await fixture().box();
      expect((await shellInside(guest, "id -u; id -g", { user: "1234:99" })).stdout).toBe("1234\n99\n");
      expect((await shellInside(guest, "id -un; echo $USER", { user: "nobody" })).stdout).toBe(
        "nobody\nnobody\n",
      );
      expect((await shellInside(guest, "cat /root/x; ls /root", { user: "nobody" })).exit_code).not.toBe(0);
    },
    { unless: unless("users") },
  );

  test("tells what can't be run, and what a signal ended", async () => {
    const { guest } = await fixture().box();
    expect(await runInside(guest, ["no-such-program"])).toMatchObject({ exit_code: 127 });
    expect(await runInside(guest, ["/etc/passwd"])).toMatchObject({ exit_code: 126 });
    expect(await runInside(guest, ["/etc"])).toMatchObject({ exit_code: 126 });
    expect(await shellInside(guest, "kill -TERM $$")).toMatchObject({ exit_code: 143, signal: "SIGTERM" });
    expect(await shellInside(guest, "kill -KILL $$")).toMatchObject({ exit_code: 137, signal: "SIGKILL" });
  });

  test("carries stdin to its end", async () => {
    const { guest } = await fixture().box();
    const input = "line\n".repeat(100_000);
    expect((await runInside(guest, ["cat"], { input })).stdout).toBe(input);
    expect((await runInside(guest, ["wc", "-c"])).stdout.trim()).toBe("0");
  });

  test("gives a terminal that can be resized and interrupted", async () => {
    const { guest } = await fixture().box();
    const script = "stty size; read line; stty size; echo got $line; sleep 600";
    const session = await guest.spawn({
      argv: ["sh", "-c", script],
      env: { TERM: "dumb" },
      stdin: true,
      tty: { cols: 91, rows: 17 },
    });
    await using _ = session;
    let seen = "";
    const reading = (async () => {
      for await (const { data } of session.output) seen += Buffer.from(data).toString("utf8");
    })();
    await eventually("the first size", () => seen.includes("17 91"));
    await session.resize(100, 30);
    await session.write(Buffer.from("hello\r"));
    await eventually("the second size", () => seen.includes("30 100"));
    await eventually("the line", () => seen.includes("got hello"));
    await session.write(Buffer.from("\x03"));
    await reading;
    expect(await session.exit).toMatchObject({ exit_code: 130, signal: "SIGINT" });
  });

  test("kills a command's whole tree at its timeout", async () => {
    const { guest } = await fixture().box();
    const script = "echo begun; (setsid sleep 31001 &) ; (sleep 31002 & exec sleep 31003) & sleep 31004";
    const result = await longEnough(
      (timeoutMs) => within(20_000, "the timeout", shellInside(guest, script, { timeoutMs })),
      ({ stdout }) => stdout !== "",
    );
    expect(result).toMatchObject({ exit_code: 124, timed_out: true, stdout: "begun\n" });
    await eventually("the tree to be gone", async () =>
      (await commandLinesInside(guest)).every((line) => !line.startsWith("sleep 3100")),
    );
  });

  test("does not wait for what a command leaves in the background", async () => {
    const { guest } = await fixture().box();
    const script = "sleep 32001 & echo done";
    const result = await within(10_000, "the end", shellInside(guest, script));
    expect(result).toMatchObject({ exit_code: 0, stdout: "done\n" });
    // It may not have become sleep yet.
    await eventually("what it left", async () =>
      (await commandLinesInside(guest)).some((line) => line.startsWith("sleep 32001")),
    );
  });

  test("ends a command whose session is let go", async () => {
    const { guest } = await fixture().box();
    const session = await guest.spawn({ argv: ["sleep", "33001"], env: {} });
    session.exit.catch(() => {});
    await session[Symbol.asyncDispose]();
    await eventually("the command to be gone", async () =>
      (await commandLinesInside(guest)).every((line) => !line.startsWith("sleep 33001")),
    );
  });

  test("cuts output where it is told to", async () => {
    const { guest } = await fixture().box();
    const result = await runInside(guest, ["head", "-c", "100000", "/dev/zero"], { maxOutputBytes: 1000 });
    expect(result).toMatchObject({ stdoutTruncated: true, stderrTruncated: false, exit_code: 0 });
    expect(result.stdout.length).toBe(1000);
  });

  test("carries files of any name and any bytes", async () => {
    const { guest } = await fixture().box();
    await guest.mkdir("/opt/odd", { parents: true });
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
    for (const name of oddNames) {
      const path = `/opt/odd/${name}`;
      expect(await guest.writeFile(path, bytes)).toEqual({ bytes: 256 });
      const { info, body } = await guest.readFile(path);
      expect(info).toMatchObject({ name, path, size: 256, is_dir: false, type: "file" });
      expect((await readAll(body)).equals(bytes)).toBe(true);
    }
    const listed = await guest.list("/opt/odd");
    expect(listed.map((entry) => entry.name).sort()).toEqual([...oddNames].sort());
    for (const name of oddNames) await guest.remove(`/opt/odd/${name}`);
    expect(await guest.list("/opt/odd")).toEqual([]);
  });

  test("streams a file that is larger than any buffer", async () => {
    const { guest } = await fixture().box();
    const chunk = Buffer.alloc(1024 * 1024, "abcdefg");
    async function* chunks() {
      for (let i = 0; i < 16; i++) yield chunk;
    }
    expect(await guest.writeFile("/opt/big", chunks(), { parents: true })).toEqual({
      bytes: 16 * chunk.length,
    });
    let bytes = 0;
    for await (const part of (await guest.readFile("/opt/big")).body) bytes += part.length;
    expect(bytes).toBe(16 * chunk.length);
    const middle = await guest.readFile("/opt/big", { offset: chunk.length - 1, length: 3 });
    expect((await readAll(middle.body)).toString()).toBe(
      Buffer.concat([chunk.subarray(-1), chunk.subarray(0, 2)]).toString(),
    );
  });

  test("makes, moves, marks and removes files", async () => {
    const { guest } = await fixture().box();
    await guest.mkdir("/opt/a/b", { parents: true });
    await guest.mkdir("/opt/a/b", { parents: true });
    await guest.writeFile("/opt/a/b/file", Buffer.from("1"), { mode: 0o640 });
    await shellInside(guest, "ln -s file /opt/a/b/link; mkfifo /opt/a/b/fifo");
    expect(await guest.stat("/opt/a/b/link")).toMatchObject({ type: "symlink", target: "file" });
    expect(await guest.stat("/opt/a/b/fifo")).toMatchObject({ type: "fifo" });
    const info = await guest.stat("/opt/a/b/file");
    expect(info).toMatchObject({ mode: "-rw-r-----", permissions: 0o640, uid: 0, gid: 0 });
    expect(Math.abs(Date.parse(info.mod_time) - Date.now())).toBeLessThan(60_000);
    await guest.chmod("/opt/a/b/file", 0o600);
    await guest.rename("/opt/a/b/file", "/opt/a/moved");
    expect(await guest.stat("/opt/a/moved")).toMatchObject({ permissions: 0o600, size: 1 });
    await expectFailure(guest.remove("/opt/a"), "directory_not_empty", "not_a_file");
    await guest.remove("/opt/a", { recursive: true });
    await expectFailure(guest.stat("/opt/a"), "file_not_found");
    await guest.remove("/opt/a", { missingOk: true });
  });

  test("tells of changes below a directory", async () => {
    const { guest } = await fixture().box();
    await guest.mkdir("/opt/watched", { parents: true });
    const stop = new AbortController();
    const seen: string[] = [];
    const watching = (async () => {
      for await (const event of guest.watch("/opt/watched", { signal: stop.signal })) {
        seen.push(`${event.type} ${event.path}`);
      }
    })().catch(() => {});
    // The watch has begun when a change is seen.
    await eventually("a first event", async () => {
      await guest.writeFile("/opt/watched/first", Buffer.from("x"));
      return seen.length > 0;
    });
    await shellInside(guest, "echo x > /opt/watched/second; rm /opt/watched/second");
    await eventually("the creation", () => seen.includes("create /opt/watched/second"));
    await eventually("the deletion", () => seen.includes("delete /opt/watched/second"));
    stop.abort();
    await within(5000, "the watch to end", watching);
  });

  test("reaches a port inside, and only inside", async () => {
    const { box } = fixture();
    const [one, two] = [await box(), await box()];
    const server =
      'use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1", LocalPort => 5005) or die; ' +
      '$| = 1; print "up\n"; while (my $c = $s->accept) { while (my $l = <$c>) { print $c uc $l } close $c }';
    const session = await one.guest.spawn({ argv: ["perl", "-e", server], env: {} });
    await using _ = session;
    for await (const { data } of session.output) {
      if (Buffer.from(data).toString().includes("up")) break;
    }
    const socket = await one.guest.dial(5005);
    socket.end("hello\n");
    expect((await readAll(socket)).toString()).toBe("HELLO\n");
    await expect(two.guest.dial(5005)).rejects.toThrow();
    expect(await interfaces(two.guest)).toEqual(["lo"]);
    socket.destroy();
    if (!socket.closed) await once(socket, "close");
  });

  test("keeps sandboxes apart", async () => {
    const { box } = fixture();
    const [one, two] = [await box({ labels: { a: "1" } }), await box()];
    await one.guest.writeFile("/opt/secret", Buffer.from("x"), { parents: true });
    const sleeper = await one.guest.spawn({ argv: ["sleep", "34001"], env: {} });
    await using _ = sleeper;
    await expectFailure(two.guest.stat("/opt/secret"), "file_not_found");
    expect(await commandLinesInside(two.guest)).not.toContainEqual(expect.stringContaining("34001"));
    expect(await commandLinesInside(one.guest)).toContainEqual(expect.stringContaining("34001"));
  });

  test("starts the main command, and tells its end", async () => {
    const { box } = fixture();
    const script = 'pwd; echo "$A"; uname -n; exit 7';
    const cmd = ["sh", "-c", `{ ${script}; } > /opt/said 2>&1`];
    const { guest } = await box({ cmd, env: { A: "b c" }, workdir: "/opt/made/for me", hostname: "named" });
    const watch = guest.waitMain();
    expect(await watch.started).toEqual({ hasMain: true });
    expect(await watch.exit).toMatchObject({ exit_code: 7 });
    const said = (await readAll((await guest.readFile("/opt/said")).body)).toString();
    expect(said).toBe("/opt/made/for me\nb c\nnamed\n");
  });

  test("makes the working directory where it is missing", async () => {
    const { guest } = await fixture().box({ workdir: "/made/by/start" });
    expect(await guest.stat("/made/by/start")).toMatchObject({ type: "directory" });
  });

  test("tells by its wait connection that the guest is gone", async () => {
    const { guest, pid } = await fixture().box();
    const watch = guest.waitMain();
    expect(await watch.started).toEqual({ hasMain: false });
    process.kill(pid, "SIGKILL");
    await within(10_000, "the loss", expectFailure(watch.exit, "guest_failed"));
  });
}

async function interfaces(guest: Parameters<typeof shellInside>[0]): Promise<string[]> {
  const { stdout } = await shellInside(guest, "cat /proc/net/dev");
  return stdout
    .split("\n")
    .slice(2)
    .filter((line) => line.includes(":"))
    .map((line) => line.split(":")[0]?.trim() ?? "");
}
