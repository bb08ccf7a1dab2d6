import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  childrenOf,
  collect,
  exists,
  isSanitized,
  processStatus,
  readUntil,
  run,
  script,
  startGuest,
  type TestGuest,
  until,
} from "./harness.ts";

let guest: TestGuest;
beforeAll(async () => {
  guest = await startGuest();
});
afterAll(() => guest[Symbol.asyncDispose]());

describe("a command", () => {
  it("keeps stdout, stderr and the exit code apart", async () => {
    const result = await run(guest, script("echo out; echo err >&2; exit 3"));
    expect(result).toMatchObject({ exit_code: 3, stdout: "out\n", stderr: "err\n", stdoutTruncated: false });
    expect(result).not.toHaveProperty("signal");
    expect(result).not.toHaveProperty("timed_out");
  });

  it("gets its arguments as they are", async () => {
    const args = ["a b", "", "'", '"', ";rm", "$HOME", "new\nline", "ü\u{1f600}"];
    const result = await run(guest, { argv: ["printf", "%s|", ...args], env: {} });
    expect(result.stdout).toBe(args.map((a) => `${a}|`).join(""));
  });

  it("gets the given environment, completed by PATH, HOME, USER and LOGNAME, and nothing else", async () => {
    const result = await run(guest, { argv: ["env"], env: { A: "1", B: "x=y z" } });
    expect(result.stdout.trim().split("\n").sort()).toEqual([
      "A=1",
      "B=x=y z",
      "HOME=/root",
      "LOGNAME=root",
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      "USER=root",
    ]);
    const own = await run(guest, {
      argv: ["/usr/bin/env"],
      env: { PATH: "/nowhere", HOME: "/h", USER: "u", LOGNAME: "l" },
    });
    expect(own.stdout.trim().split("\n").sort()).toEqual(["HOME=/h", "LOGNAME=l", "PATH=/nowhere", "USER=u"]);
  });

  it("is searched on the PATH it is given", async () => {
    const dir = join(guest.dir, "bin");
    await guest.client.writeFile(join(dir, "my-tool"), Buffer.from("#!/bin/sh\necho mine\n"), {
      mode: 0o755,
    });
    expect((await run(guest, { argv: ["my-tool"], env: { PATH: `/nowhere:${dir}` } })).stdout).toBe("mine\n");
    expect((await run(guest, { argv: ["my-tool"], env: {} })).exit_code).toBe(127);
  });

  it("runs in the given directory, or in /", async () => {
    expect((await run(guest, { argv: ["pwd"], env: {}, cwd: guest.dir })).stdout).toBe(`${guest.dir}\n`);
    expect((await run(guest, { argv: ["pwd"], env: {} })).stdout).toBe("/\n");
  });

  it("is refused for a directory that is missing or none", async () => {
    const spawn = (cwd: string) => guest.client.spawn({ argv: ["true"], env: {}, cwd });
    await expect(spawn("/no/such")).rejects.toMatchObject({ code: "file_not_found" });
    await expect(spawn("/etc/passwd")).rejects.toMatchObject({ code: "not_a_directory" });
  });

  it("ends with 127 when it does not exist, and with 126 when it can't be run", async () => {
    const missing = await run(guest, { argv: ["no-such-program"], env: {} });
    expect(missing).toMatchObject({ exit_code: 127, stdout: "" });
    expect(missing.stderr).toMatch(/^warren: no-such-program: .*\n$/);
    expect(await run(guest, { argv: ["/no/such"], env: {} })).toMatchObject({ exit_code: 127 });
    expect(await run(guest, { argv: [""], env: {} })).toMatchObject({ exit_code: 127 });
    expect(await run(guest, { argv: ["/etc/passwd"], env: {} })).toMatchObject({ exit_code: 126 });
    expect(await run(guest, { argv: ["/etc"], env: {} })).toMatchObject({ exit_code: 126 });
    const script = join(guest.dir, "script");
    await guest.client.writeFile(script, Buffer.from("#!/no/such/interpreter\n"), { mode: 0o755 });
    expect(await run(guest, { argv: [script], env: {} })).toMatchObject({ exit_code: 126 });
    await guest.client.writeFile(script, Buffer.from("no program\n"), { mode: 0o755 });
    expect(await run(guest, { argv: [script], env: {} })).toMatchObject({ exit_code: 126 });
    const long = await run(guest, { argv: ["echo", "x".repeat(200_000)], env: {} });
    expect(long).toMatchObject({ exit_code: 126, stderr: expect.stringContaining("too long") });
  });

  it("is told by one line when its name has control characters", async () => {
    const result = await run(guest, { argv: ["a\nb\x1b[31m"], env: {} });
    expect(result).toMatchObject({ exit_code: 127, stderr: "warren: a?b?[31m: command not found\n" });
  });

  it("reports the signal that ended it", async () => {
    expect(await run(guest, script("kill -SEGV $$"))).toMatchObject({ exit_code: 139, signal: "SIGSEGV" });
    expect(await run(guest, script("kill -KILL $$"))).toMatchObject({ exit_code: 137, signal: "SIGKILL" });
    expect(await run(guest, script("exit 255"))).toMatchObject({ exit_code: 255 });
  });

  it("counts the processor time of what was reaped", async () => {
    const result = await run(guest, script("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"));
    expect(result.cpuTimeUs).toBeGreaterThan(10_000);
  });

  it("is refused without a program, with a NUL, with a bad variable name, or over 1 MiB", async () => {
    const spawn = (argv: string[], env = {}) => guest.client.spawn({ argv, env });
    await expect(spawn([])).rejects.toMatchObject({ code: "invalid_request" });
    await expect(spawn(["a\0b"])).rejects.toMatchObject({ code: "invalid_request" });
    await expect(spawn(["true"], { "A=B": "c" })).rejects.toMatchObject({ code: "invalid_request" });
    await expect(spawn(["true"], { "": "c" })).rejects.toMatchObject({ code: "invalid_request" });
    await expect(spawn(Array(20).fill("x".repeat(100_000)))).rejects.toMatchObject({ code: "too_large" });
  });

  it("takes an argument list of nearly 1 MiB", async () => {
    const args = Array.from({ length: 9_000 }, () => "x".repeat(100));
    const result = await run(guest, { argv: ["/bin/sh", "-c", "echo $#", "sh", ...args], env: {} });
    expect(result.stdout).toBe("9000\n");
  });
});

describe("what a command inherits", () => {
  it("is three descriptors", async () => {
    const session = await guest.client.spawn({ argv: ["sleep", "1000"], env: {} });
    expect((await readdir(`/proc/${session.pid}/fd`)).sort()).toEqual(["0", "1", "2"]);
    await session.kill();
  });

  it("is default signal handling, an ordinary umask, and a higher readiness to be killed for memory", async () => {
    const result = await run(
      guest,
      script("grep -E 'Sig(Blk|Ign)' /proc/self/status; umask; cat /proc/self/oom_score_adj"),
    );
    const own = Number(await readFile(`/proc/${guest.pid}/oom_score_adj`, "utf8"));
    expect(result.stdout).toBe(
      `SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n0022\n${Math.min(own + 200, 1000)}\n`,
    );
  });

  it("is a session and a process group of its own", async () => {
    const session = await guest.client.spawn({ argv: ["sleep", "1000"], env: {} });
    const fields = (await readFile(`/proc/${session.pid}/stat`, "utf8")).split(") ")[1]?.split(" ") ?? [];
    expect(fields.slice(2, 4)).toEqual([String(session.pid), String(session.pid)]);
    await session.kill();
  });

  it("is not the guest's undumpable state", async () => {
    await using plain = await startGuest({ uid: 54_321 });
    const session = await plain.client.spawn({ argv: ["sleep", "1000"], env: {} });
    // The kernel gives the files of an undumpable process to root.
    expect((await stat(`/proc/${plain.pid}/environ`)).uid).toBe(0);
    const { ppid } = await processStatus(session.pid);
    expect((await stat(`/proc/${ppid}/environ`)).uid).toBe(0);
    expect((await stat(`/proc/${session.pid}/environ`)).uid).toBe(54_321);
    await session.kill();
  });
});

describe("a user", () => {
  const id = (user: string) =>
    run(guest, { argv: ["sh", "-c", "id -u; id -g; id -G; echo $HOME $USER"], env: {}, user });

  it("is a name, an id, or either with a group", async () => {
    expect((await id("nobody")).stdout).toBe("65534\n65534\n65534\n/nonexistent nobody\n");
    expect((await id("65534")).stdout).toBe("65534\n65534\n65534\n/nonexistent nobody\n");
    expect((await id("54321")).stdout).toBe("54321\n0\n0\n/\n");
    expect((await id("54321:54322")).stdout).toBe("54321\n54322\n54322\n/\n");
    expect((await id("nobody:daemon")).stdout).toBe("65534\n1\n1\n/nonexistent nobody\n");
  });

  it("leaves all capabilities behind", async () => {
    const result = await run(guest, {
      argv: ["grep", "-E", "^Cap(Prm|Eff|Amb)", "/proc/self/status"],
      env: {},
      user: "nobody",
    });
    expect(result.stdout).toBe(
      "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n",
    );
  });

  it("that does not exist is refused", async () => {
    for (const user of ["no-such-user", ":", "root:no-such-group", "4294967295", "-1", "1:2:3"]) {
      await expect(guest.client.spawn({ argv: ["true"], env: {}, user })).rejects.toMatchObject({
        code: "invalid_request",
      });
    }
  });

  it("can't enter a directory that is closed to it", async () => {
    const cwd = join(guest.dir, "closed");
    await guest.client.mkdir(cwd, { mode: 0o700 });
    await expect(guest.client.spawn({ argv: ["true"], env: {}, user: "nobody", cwd })).rejects.toMatchObject({
      code: "permission_denied",
    });
  });

  it("can't be changed by a guest that is not root", async () => {
    await using plain = await startGuest({ uid: 54_321 });
    await expect(plain.client.spawn({ argv: ["true"], env: {}, user: "0" })).rejects.toMatchObject({
      code: "permission_denied",
    });
    expect((await run(plain, { argv: ["id", "-u"], env: {}, user: "54321:54321" })).stdout).toBe("54321\n");
  });
});

describe("stdin", () => {
  it("is /dev/null unless asked for", async () => {
    expect(await run(guest, { argv: ["cat"], env: {} })).toMatchObject({ exit_code: 0, stdout: "" });
    const session = await guest.client.spawn({ argv: ["cat"], env: {} });
    await expect(session.write(Buffer.from("x"))).rejects.toMatchObject({ code: "invalid_request" });
    await session.exit;
  });

  it("carries any bytes until its end", async () => {
    const session = await guest.client.spawn({ argv: ["sha256sum"], env: {}, stdin: true });
    await session.write(Buffer.from([0, 255, 10, 13]));
    await session.write(Buffer.alloc(0));
    await session.end();
    const { createHash } = await import("node:crypto");
    const expected = createHash("sha256")
      .update(Buffer.from([0, 255, 10, 13]))
      .digest("hex");
    expect((await collect(session)).stdout).toBe(`${expected}  -\n`);
  });

  it("moves megabytes both ways at once", async () => {
    const session = await guest.client.spawn({ argv: ["cat"], env: {}, stdin: true });
    const block = Buffer.alloc(1 << 20, "0123456789abcdef");
    const writing = (async () => {
      for (let i = 0; i < 32; i++) await session.write(block);
      await session.end();
    })();
    let bytes = 0;
    for await (const { data } of session.output) bytes += data.length;
    await writing;
    expect(bytes).toBe(32 << 20);
    expect((await session.exit).exit_code).toBe(0);
  });

  it("that nobody reads any more is no error", async () => {
    const session = await guest.client.spawn({ argv: ["head", "-c", "1"], env: {}, stdin: true });
    const block = Buffer.alloc(1 << 20);
    await Promise.all([
      (async () => {
        for (let i = 0; i < 8; i++) await session.write(block);
        await session.end();
      })(),
      collect(session),
    ]);
    expect((await session.exit).exit_code).toBe(0);
  });

  it("that is full does not hold up a kill", async () => {
    const session = await guest.client.spawn({ argv: ["sleep", "1000"], env: {}, stdin: true });
    const writing = session.write(Buffer.alloc(8 << 20)).catch(() => {});
    await session.kill();
    const exit = await session.exit;
    expect(exit).toMatchObject({ exit_code: 137, signal: "SIGKILL" });
    // The guest's own account, which a lost connection would not have brought.
    expect(exit.cpuTimeUs).toBeGreaterThan(0);
    await writing;
  });
});

describe("output", () => {
  it("arrives while the command runs", async () => {
    const session = await guest.client.spawn({
      ...script("echo ready; read line; echo got $line"),
      stdin: true,
    });
    const output = session.output[Symbol.asyncIterator]();
    await readUntil(output, "ready\n");
    await session.write(Buffer.from("it\n"));
    await readUntil(output, "got it\n");
    expect(await session.exit).toMatchObject({ exit_code: 0 });
  });

  it("is cut at the given size, for each stream, while the command runs on", async () => {
    const result = await run(guest, {
      ...script("yes | head -c 3000000; yes no | head -c 50 >&2; exit 4"),
      maxOutputBytes: 100_000,
    });
    expect(result).toMatchObject({ exit_code: 4, stdoutTruncated: true, stderrTruncated: false });
    expect(result.stdout).toHaveLength(100_000);
    expect(result.stderr).toHaveLength(50);
    const exact = await run(guest, { ...script("yes | head -c 1000"), maxOutputBytes: 1000 });
    expect(exact).toMatchObject({ stdoutTruncated: false });
  });

  it("of `yes` without an end costs no memory, and ends with its timeout", async () => {
    const session = await guest.client.spawn({
      argv: ["yes"],
      env: {},
      maxOutputBytes: 65_536,
      timeoutMs: 500,
    });
    const result = await collect(session);
    expect(result).toMatchObject({ exit_code: 124, timed_out: true, stdoutTruncated: true });
    expect(result.stdout).toHaveLength(65_536);
  });

  it("that nobody reads holds up the command, and nothing else", async () => {
    const slow = await guest.client.spawn({ argv: ["yes"], env: {} });
    const { ppid } = await processStatus(slow.pid);
    expect(ppid).not.toBe(guest.pid);
    await until(async () => (await readFile(`/proc/${slow.pid}/stat`, "utf8")).includes(") S "));
    expect((await processStatus(ppid)).rssKiB).toBeLessThan(isSanitized ? 100_000 : 1024);
    expect((await run(guest, { argv: ["echo", "quick"], env: {} })).stdout).toBe("quick\n");
    await slow.kill();
    expect(await slow.exit).toMatchObject({ exit_code: 137 });
  });

  it("reaches a reader who starts after the end", async () => {
    const session = await guest.client.spawn({ argv: ["echo", "early"], env: {} });
    await session.exit;
    expect((await collect(session)).stdout).toBe("early\n");
  });

  it("may be left unread", async () => {
    const session = await guest.client.spawn(script("yes | head -c 5000000"));
    for await (const _ of session.output) break;
    expect(await session.exit).toMatchObject({ exit_code: 0 });
  });
});

describe("a background child", () => {
  it("keeps nobody waiting, and lives on without SIGPIPE", async () => {
    const file = join(guest.dir, "done");
    const go = join(guest.dir, "go");
    const text = '(until [ -e "$2" ]; do sleep 0.01; done; yes | head -c 1000000; echo ok > "$1") & echo now';
    const result = await run(guest, script(text, file, go));
    expect(result).toMatchObject({ exit_code: 0, stdout: "now\n" });
    expect(await exists(file)).toBe(false);
    await guest.client.writeFile(go, Buffer.of());
    await until(() => exists(file));
  });

  it("that writes without end does not delay the exit", async () => {
    const session = await guest.client.spawn(script("yes & echo $!; exit 5"));
    const result = await collect(session);
    expect(result.exit_code).toBe(5);
    const pid = Number(result.stdout.split("\n").find((line) => /^\d+$/.test(line)));
    process.kill(pid, "SIGKILL");
  });

  it("leaves no handler behind when it ends", async () => {
    await run(guest, script("sleep 0.2 >/dev/null 2>&1 &"));
    await until(async () => (await childrenOf(guest.pid)).length === 0);
  });

  it("is not what the whole output waits for: all that the command wrote comes first", async () => {
    const result = await run(guest, script("sleep 0.5 & yes | head -c 40000"));
    expect(result.stdout).toHaveLength(40_000);
  });
});
