import { spawn } from "node:child_process";
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { silentLogger } from "../../src/lib/log.ts";
import { nativeProgram } from "../../src/lib/native.ts";
import { createLauncher, type Launcher } from "../../src/runtimes/oci/launcher-client.ts";
import { encoder, launcherOps } from "../../src/runtimes/oci/wire.ts";
import { expectFailure } from "../../src/testing/failures.ts";
import { eventually } from "../../src/testing/wait.ts";

const sh = (script: string, ...args: string[]) => ["/bin/sh", "-c", script, "sh", ...args];

describe("the launcher", () => {
  let launcher: Launcher;
  beforeAll(() => {
    launcher = createLauncher({ log: silentLogger });
  });
  afterAll(() => launcher.close());

  describe("RUN", () => {
    it("gives the exit code and both outputs", async () => {
      const result = await launcher.run({ argv: sh("echo out; echo err >&2; exit 7"), timeoutMs: 10_000 });
      expect(result).toMatchObject({ code: 7, timedOut: false });
      expect(result.output.toString()).toBe("out\nerr\n");
      const killed = await launcher.run({ argv: sh("kill -TERM $$"), timeoutMs: 10_000 });
      expect(killed.code).toBe(143);
    });

    it("passes arguments, environment, directory and input as they are", async () => {
      const args = ["", "a b", "$(id)", "new\nline", "ü"];
      const result = await launcher.run({
        argv: sh('printf "[%s]" "$@"; pwd; env | sort; cat', ...args),
        env: { A: "x y", PATH: "/usr/bin:/bin" },
        cwd: "/usr",
        stdin: Buffer.from("input"),
        timeoutMs: 10_000,
      });
      const text = result.output.toString();
      expect(text.startsWith(args.map((arg) => `[${arg}]`).join(""))).toBe(true);
      expect(text).toContain("/usr\nA=x y\n");
      expect(text.endsWith("input")).toBe(true);
    });

    it("keeps the end of a long output, in bounded memory", async () => {
      const argv = sh("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo last");
      const result = await launcher.run({ argv, timeoutMs: 30_000, maxOutputBytes: 1000 });
      expect(result.output.length).toBe(1000);
      expect(result.output.toString().endsWith("line 19999\nlast\n")).toBe(true);
    });

    it("takes much input that nobody reads", async () => {
      const result = await launcher.run({
        argv: sh("exit 3"),
        stdin: Buffer.alloc(500_000),
        timeoutMs: 10_000,
      });
      expect(result.code).toBe(3);
    });

    it("kills the whole process group at its timeout", async () => {
      const startedAt = performance.now();
      const argv = sh(`sleep ${sleeper(1)} & sleep ${sleeper(1)}`);
      const result = await launcher.run({ argv, timeoutMs: 300 });
      expect(result).toMatchObject({ timedOut: true, code: 137 });
      // What is left of a minute, had it waited for the sleepers.
      expect(performance.now() - startedAt).toBeLessThan(40_000);
      await eventually("the sleepers to be gone", () => !sleeps(1));
    });

    it("does not wait for what a program leaves in the background", async () => {
      const result = await launcher.run({ argv: sh(`sleep ${sleeper(3)} & echo done`), timeoutMs: 30_000 });
      expect(result.output.toString()).toBe("done\n");
    });

    it("is cancelled", async () => {
      const stop = new AbortController();
      const running = launcher.run({
        argv: ["/bin/sleep", sleeper(4)],
        timeoutMs: 60_000,
        signal: stop.signal,
      });
      await eventually("the sleeper", () => sleeps(4));
      stop.abort();
      await expectFailure(running, "cancelled");
      await eventually("the sleeper's end", () => !sleeps(4));
    });

    it("says what can't be run", async () => {
      const error = await expectFailure(
        launcher.run({ argv: ["/nonexistent"], timeoutMs: 1000 }),
        "runtime_failed",
      );
      expect(error.message).toContain("ENOENT");
    });

    it("runs side by side, and answers in the order of the ends", async () => {
      const ends: string[] = [];
      const dir = mkdtempSync(join(tmpdir(), "wl-order-"));
      const run = (name: string, script: string) =>
        launcher.run({ argv: sh(script, join(dir, "go")), timeoutMs: 60_000 }).then(() => ends.push(name));
      const slow = run("slow", 'until [ -e "$1" ]; do sleep 0.01; done');
      await run("quick", ":");
      expect(ends).toEqual(["quick"]);
      writeFileSync(join(dir, "go"), "");
      await slow;
      rmSync(dir, { recursive: true });
      expect(ends).toEqual(["quick", "slow"]);
    });
  });

  describe("KILL", () => {
    it("ends exactly the process that was meant", async () => {
      const child = spawn("sleep", ["600"], { stdio: "ignore" });
      const pid = child.pid as number;
      const startTime = BigInt(readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ")[19] ?? 0);
      expect(await launcher.kill({ pid, startTime: startTime + 1n }, 9, 100)).toBe(true);
      expect(await launcher.kill({ pid, startTime }, 0, 50)).toBe(false);
      const ended = new Promise((resolve) => child.once("exit", (_code, signal) => resolve(signal)));
      expect(await launcher.kill({ pid, startTime }, 9, 10_000)).toBe(true);
      expect(await ended).toBe("SIGKILL");
      expect(await launcher.kill({ pid, startTime }, 9, 0)).toBe(true);
    });

    it("refuses pid 1 and below", async () => {
      await expectFailure(launcher.kill({ pid: 1, startTime: 1n }, 0, 0), "runtime_failed");
      await expectFailure(launcher.kill({ pid: 0, startTime: 1n }, 0, 0), "runtime_failed");
    });

    it("refuses cgroups that can't be ours", async () => {
      await expectFailure(launcher.cgroupKill(["/sys/fs/cgroup/pids"], "/", 0), "runtime_failed");
    });
  });

  describe("RMTREE", () => {
    let trash = "";
    beforeEach(() => {
      trash = mkdtempSync(join(tmpdir(), "wl-trash-"));
    });
    afterEach(() => rmSync(trash, { recursive: true, force: true }));

    it("deletes a tree without following links", async () => {
      const outside = join(trash, "outside");
      mkdirSync(outside);
      writeFileSync(join(outside, "kept"), "x");
      mkdirSync(join(trash, "doomed", "a", "b"), { recursive: true });
      symlinkSync(outside, join(trash, "doomed", "a", "link"));
      writeFileSync(join(trash, "doomed", "a", "b", "file"), "x");
      mkdirSync(join(trash, "doomed", "closed"), { mode: 0o000 });
      await launcher.rmtree(trash, "doomed");
      expect(readdirSync(trash)).toEqual(["outside"]);
      expect(readdirSync(outside)).toEqual(["kept"]);
      symlinkSync(outside, join(trash, "link"));
      await launcher.rmtree(trash, "link");
      expect(readdirSync(trash)).toEqual(["outside"]);
      await launcher.rmtree(trash, "missing");
    });

    it("deletes a tree that is 10000 directories deep", async () => {
      const script =
        'chdir shift; mkdir "deep"; chdir "deep"; for (1..10000) { mkdir "d"; chdir "d" or die }';
      const built = await launcher.run({ argv: ["/usr/bin/perl", "-e", script, trash], timeoutMs: 60_000 });
      expect(built.output.toString()).toBe("");
      await launcher.rmtree(trash, "deep");
      expect(readdirSync(trash)).toEqual([]);
    }, 120_000);

    it("takes nothing but a name", async () => {
      for (const name of ["", ".", "..", "a/b", "../x", "/etc"]) {
        await expectFailure(launcher.rmtree(trash, name), "runtime_failed");
      }
      await expectFailure(launcher.rmtree("relative", "x"), "runtime_failed");
    });
  });
});

describe("a launcher whose engine goes away", () => {
  it("ends its programs, and itself", async () => {
    const child = spawn(nativeProgram("warren-launcher"), ["serve"], { stdio: ["pipe", "pipe", "inherit"] });
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.stdin.write(frame(1, launcherOps.run, runBody(["/bin/sleep", sleeper(5)])));
    await eventually("the sleeper", () => sleeps(5));
    child.stdin.end();
    expect(await ended).toBe(0);
    await eventually("the sleeper's end", () => !sleeps(5));
  });

  it("that is killed takes its programs along", async () => {
    const child = spawn(nativeProgram("warren-launcher"), ["serve"], { stdio: ["pipe", "pipe", "inherit"] });
    child.stdin.write(frame(1, launcherOps.run, runBody(["/bin/sleep", sleeper(6)])));
    await eventually("the sleeper", () => sleeps(6));
    child.kill("SIGKILL");
    await eventually("the sleeper's end", () => !sleeps(6));
  });
});

describe("a program that the launcher keeps", () => {
  it("runs from a file in memory that nobody can write to, until it is replaced", async () => {
    const dir = mkdtempSync(join(tmpdir(), "wl-kept-"));
    const child = spawn(nativeProgram("warren-launcher"), ["serve"], { stdio: ["pipe", "pipe", "inherit"] });
    const chunks: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
    const answered = async (text: string) => {
      await eventually(text, () => Buffer.concat(chunks).includes(text));
      chunks.length = 0;
    };
    try {
      const program = join(dir, "busybox");
      copyFileSync("/bin/busybox", program);
      const itself = runBody([program, "readlink", "/proc/self/exe"]);
      child.stdin.write(frame(1, launcherOps.run, itself));
      await answered(`${program}\n`);
      child.stdin.write(frame(2, launcherOps.keep, encoder().str(program).finish()));
      child.stdin.write(frame(3, launcherOps.run, itself));
      await answered("/memfd:program (deleted)\n");

      const fds = `/proc/${child.pid}/fd`;
      const kept = readdirSync(fds).find((fd) => readlinkSync(join(fds, fd)).startsWith("/memfd:program"));
      const overwrite = (path: string) => {
        const fd = openSync(path, "r+");
        try {
          writeSync(fd, "attack");
        } finally {
          closeSync(fd);
        }
      };
      expect(() => overwrite(join(fds, kept ?? ""))).toThrow(/EPERM/);
      overwrite(program); // the file at the path could be written to, and no longer is what was kept

      copyFileSync("/bin/busybox", `${program}.new`);
      renameSync(`${program}.new`, program);
      child.stdin.write(frame(4, launcherOps.run, itself));
      await answered(`${program}\n`);
    } finally {
      child.stdin.end();
      rmSync(dir, { recursive: true });
    }
  });
});

describe("a launcher that is sent nonsense", () => {
  const send = async (bytes: Buffer): Promise<{ code: number | null; answer: Buffer }> => {
    const child = spawn(nativeProgram("warren-launcher"), ["serve"], { stdio: ["pipe", "pipe", "inherit"] });
    const chunks: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
    child.stdin.on("error", () => {});
    const code = new Promise<number | null>((resolve) => child.once("close", resolve));
    child.stdin.write(bytes);
    await Promise.race([code, new Promise((resolve) => child.stdout.once("data", resolve))]);
    child.stdin.end();
    return { code: await code, answer: Buffer.concat(chunks) };
  };
  const u32 = (value: number) => encoder().u32(value).finish();

  it("refuses lengths out of bounds at once", async () => {
    for (const length of [0, 4, 0x7fff_ffff, 0xffff_ffff]) {
      expect(await send(Buffer.concat([u32(length), Buffer.alloc(16)]))).toEqual({
        code: 2,
        answer: Buffer.alloc(0),
      });
    }
  });

  it("answers a broken request with an error", async () => {
    const broken = [
      frame(1, launcherOps.run, Buffer.alloc(0)),
      frame(1, launcherOps.run, Buffer.concat([u32(0), u32(0), u32(0xffff_ffff)])),
      frame(1, launcherOps.run, Buffer.concat([runBody(["/bin/true"]), Buffer.from("more")])),
      frame(1, launcherOps.run, runBody(["/bin/tr\0ue"])),
      frame(1, launcherOps.run, runBody([])),
      frame(1, launcherOps.start, u32(7)),
      frame(1, launcherOps.kill, Buffer.alloc(3)),
      frame(1, launcherOps.rmtree, u32(1)),
      frame(1, launcherOps.copy, encoder().str("relative").str("/x").list([]).u32(0).finish()),
      frame(1, launcherOps.copy, encoder().str("/").str("/x").finish()),
      frame(1, launcherOps.keep, encoder().str("crun").finish()),
      frame(1, launcherOps.keep, encoder().str("/").finish()),
      frame(1, launcherOps.keep, encoder().str("/bin/true").str("").finish()),
      frame(1, 99, Buffer.alloc(0)),
    ];
    for (const bytes of broken) {
      const { code, answer } = await send(bytes);
      expect(code).toBe(0);
      expect(answer.readUInt32LE(4)).toBe(1);
      expect(answer.readUInt8(8)).toBe(1);
    }
  });

  it("ends the client's calls when it breaks the protocol itself", async () => {
    const dir = mkdtempSync(join(tmpdir(), "wl-fake-"));
    try {
      const program = join(dir, "fake");
      writeFileSync(
        program,
        "#!/bin/sh\nread -r _ignored; head -c 100 /dev/urandom | tr '\\0' x; sleep 1\n",
        { mode: 0o755 },
      );
      const fake = createLauncher({ log: silentLogger, program });
      await expectFailure(
        fake.run({ argv: ["/bin/true"], stdin: Buffer.from("\n"), timeoutMs: 1000 }),
        "runtime_failed",
      );
      await fake.close();
      const none = createLauncher({ log: silentLogger, program: join(dir, "none") });
      await expectFailure(none.run({ argv: ["/bin/true"], timeoutMs: 1000 }), "runtime_unavailable");
      await none.close();
      await expectFailure(none.run({ argv: ["/bin/true"], timeoutMs: 1000 }), "shutting_down");
    } finally {
      rmSync(dir, { recursive: true });
    }
    expect(existsSync(dir)).toBe(false);
  });
});

function runBody(argv: readonly string[]): Buffer {
  return encoder().u32(0).u32(1000).str("/").list(argv).list([]).bytes(Buffer.alloc(0)).finish();
}

function frame(id: number, op: number, body: Buffer): Buffer {
  const head = Buffer.alloc(9);
  head.writeUInt32LE(body.length + 5, 0);
  head.writeUInt32LE(id, 4);
  head.writeUInt8(op, 8);
  return Buffer.concat([head, body]);
}

/** For how many seconds a test's sleepers sleep, as nobody else does on this machine. */
const sleeper = (test: number) => `${35_000 + test}.${process.pid}`;
const sleeps = (test: number) => commandLines().some((line) => line.includes(`sleep ${sleeper(test)} `));

/** Command lines of all processes, each word with a space behind it. */
function commandLines(): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
      } catch {
        return "";
      }
    });
}
