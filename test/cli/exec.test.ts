import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { chmod } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { frontFile, mainFile, openWorkspace, run, until, type Workspace } from "./workspace.ts";

describe.each([
  ["front", [frontFile]],
  ["Node", [process.execPath, mainFile]],
])("exec by the %s", (_name, program) => {
  let box: Workspace;
  beforeAll(async () => {
    box = openWorkspace({}, program);
    await box.ok(["create", "--name", "ex"]);
  });
  afterAll(() => box[Symbol.asyncDispose]());

  const [command = "", ...first] = program;
  /** A line for `sh -c` that runs this CLI: only words of our own, no data. */
  const shell = (line: string) =>
    run(
      "sh",
      ["-c", line.replaceAll("warren ", `${program.map((word) => `'${word}'`).join(" ")} `)],
      box.env,
    );

  it("ends with the command's exit code", async () => {
    expect((await box.warren(["exec", "ex", "sh", "-c", "exit 7"])).code).toBe(7);
    expect((await box.warren(["exec", "ex", "--", "sh", "-c", "kill -9 $$"])).code).toBe(137);
    expect((await box.warren(["exec", "ex", "no-such-program"])).code).toBe(127);
    expect((await box.warren(["exec", "ex", "/etc"])).code).toBe(126);
    const unknown = await box.warren(["exec", "absent", "true"]);
    expect(unknown).toMatchObject({ code: 125, stderr: expect.stringMatching(/^error: /) });
  });

  it("keeps stdout and stderr apart and every byte as it is", async () => {
    const { stdout, stderr } = await box.warren([
      "exec",
      "ex",
      "sh",
      "-c",
      "printf '\\377\\000\\033[31m'; echo no >&2",
    ]);
    expect(stdout).toEqual(Buffer.from([0xff, 0, 0x1b, 0x5b, 0x33, 0x31, 0x6d]));
    expect(stderr).toBe("no\n");
  });

  it("passes stdin on with -i, to its end, and leaves it alone without", async () => {
    const input = Buffer.alloc(3 * 1024 * 1024, "0123456789abcdef");
    const echoed = await box.warren(["exec", "-i", "ex", "cat"], { input });
    expect(echoed.stdout.equals(input)).toBe(true);
    expect((await box.warren(["exec", "ex", "cat"], { input: "unread" })).stdout.toString()).toBe("");
    const loop = await shell("printf 'a\\nb\\n' | while read line; do warren exec ex echo $line; done");
    expect(loop.stdout.toString()).toBe("a\nb\n");
  });

  it("does not wait for stdin when the command has ended", async () => {
    const child = spawn(command, [...first, "exec", "-i", "ex", "sh", "-c", "exit 3"], {
      env: box.env,
      stdio: ["pipe", "ignore", "ignore"],
    });
    const code = await new Promise((resolve) => child.once("exit", resolve));
    child.stdin?.destroy();
    expect(code).toBe(3);
  });

  it("takes environment, directory and user", async () => {
    writeFileSync(join(box.dir, "env"), "# file\nA=file\nB=file\n");
    const { stdout } = await box.warren(
      [
        "exec",
        "--env-file",
        join(box.dir, "env"),
        "-e",
        "B=flag",
        "-e",
        "OWN",
        "-w",
        "/usr",
        "ex",
        "sh",
        "-c",
        'echo "$A $B $OWN $PWD"',
      ],
      { env: { OWN: "mine" } },
    );
    expect(stdout.toString()).toBe("file flag mine /usr\n");
  });

  it("ends a command that takes too long with 124 and a word", async () => {
    const { code, stderr, stdout } = await box.warren([
      "exec",
      "--timeout",
      "0.5s",
      "ex",
      "sh",
      "-c",
      "echo begun; sleep 60",
    ]);
    expect({ code, out: stdout.toString() }).toEqual({ code: 124, out: "begun\n" });
    expect(stderr).toContain("0.5s");
  });

  it("is quiet when the reader of its output goes", async () => {
    const { stdout, stderr } = await shell("warren exec ex yes | head -n 2");
    expect(stdout.toString()).toBe("y\ny\n");
    expect(stderr).toBe("");
    const help = await shell("warren --help | true; warren ls | true");
    expect(help.stderr).toBe("");
    const status = await shell("{ warren exec ex yes; echo $? >&2; } | head -n 1");
    expect(status.stderr).toBe("141\n");
  });

  it("does not read a command's output faster than it is taken", async () => {
    const { stdout } = await shell("warren exec ex head -c 50000000 /dev/zero | (sleep 1; wc -c)");
    expect(stdout.toString().trim()).toBe("50000000");
  });

  it("hands signals to the command, and the second SIGINT ends it", async () => {
    const start = async (script: string) => {
      const child = spawn(command, [...first, "exec", "ex", "sh", "-c", script], { env: box.env });
      let output = "";
      child.stdout.on("data", (chunk: Buffer) => {
        output += chunk.toString();
      });
      const exit = new Promise<[number | null, string | null]>((resolve) => {
        child.once("exit", (code, signal) => resolve([code, signal]));
      });
      await until(() => output.includes("ready"), "the command runs");
      return { child, exit, output: () => output };
    };
    const polite = await start("trap 'echo got TERM; exit 5' TERM; echo ready; while :; do sleep 0.1; done");
    polite.child.kill("SIGTERM");
    expect(await polite.exit).toEqual([5, null]);
    expect(polite.output()).toContain("got TERM");

    const deaf = await start("trap 'echo got INT' INT; echo ready $$; while :; do sleep 0.1; done");
    deaf.child.kill("SIGINT");
    await until(() => deaf.output().includes("got INT"), "the first SIGINT arrives");
    deaf.child.kill("SIGINT");
    expect(await deaf.exit).toEqual([130, null]);
  });
});

describe("the front", () => {
  let box: Workspace;
  beforeAll(async () => {
    box = openWorkspace();
    await box.ok(["create", "--name", "ex", "-e", "GREETING=hello"]);
  });
  afterAll(() => box[Symbol.asyncDispose]());

  /** Nothing that it leaves to the CLI works so: there is no node. */
  const alone = (args: string[], input?: string) =>
    run(frontFile, args, { ...box.env, PATH: "/nonexistent" }, input);

  it("needs no Node for a plain command", async () => {
    const words = [
      "sh",
      "-c",
      'printf "%s|" "$GREETING" "$A" "$PWD" "$@"',
      "sh",
      'a "b" \\',
      "\t\n\u001f",
      "é€😀",
      "",
    ];
    const { code, stdout } = await alone([
      "exec",
      "-e",
      "A=x=y",
      "-w",
      "/usr",
      "-u",
      "0",
      "ex",
      "--",
      ...words,
    ]);
    expect({ code, text: stdout.toString() }).toEqual({
      code: 0,
      text: 'hello|x=y|/usr|a "b" \\|\t\n\u001f|é€😀||',
    });
    expect(
      (await alone(["exec", "--state-dir", box.stateDir, "-i", "ex", "cat"], "in")).stdout.toString(),
    ).toBe("in");
    expect((await alone(["exec", "ex", "sh", "-c", "exit 9"])).code).toBe(9);
  });

  it.each([
    ["ls"],
    ["exec", "-t", "ex", "true"],
    ["exec", "-it", "ex", "true"],
    ["exec", "--timeout", "5", "ex", "true"],
    ["exec", "-e", "GREETING", "ex", "true"],
    ["exec", "--help"],
    ["exec", "ex"],
    ["exec"],
    ["exec", "../volumes", "true"],
    ["--state-dir", "/tmp", "exec", "ex", "true"],
    ["exec", "--state-dir", "/nonexistent", "ex", "true"],
    [],
  ])("leaves to the CLI what is more than that: %j", async (...args) => {
    expect(await alone(args)).toMatchObject({
      code: 127,
      stderr: expect.stringMatching(/^warren: node: No such file/),
    });
  });

  it.each([
    ["WARREN_URL", "http://127.0.0.1:9"],
    ["WARREN_API_KEY", "key"],
    ["WARREN_DEBUG", "1"],
  ])("leaves it to the CLI where %s is set", async (name, value) => {
    const args = ["exec", "ex", "true"];
    expect((await run(frontFile, args, { ...box.env, PATH: "/nonexistent", [name]: value })).code).toBe(127);
    expect((await run(frontFile, args, { ...box.env, PATH: "/nonexistent", [name]: "" })).code).toBe(0);
  });

  it("trusts no state directory that others may write to, nor words that are not UTF-8", async () => {
    const sh = (line: string) =>
      run("/bin/sh", ["-c", line, "sh", frontFile], { ...box.env, PATH: "/nonexistent" });
    expect((await sh('"$1" exec ex printf "$(printf "\\303\\251")"')).stdout.toString()).toBe("é");
    expect((await sh('"$1" exec ex printf "$(printf "\\351")"')).code).toBe(127);
    await chmod(box.stateDir, 0o770);
    expect((await alone(["exec", "ex", "true"])).code).toBe(127);
    await chmod(box.stateDir, 0o700);
    expect((await alone(["exec", "ex", "true"])).code).toBe(0);
  });

  it("ends with a signal's code before there is a command", async () => {
    await using engine = await fakeEngine(join(box.dir, "silent"), undefined);
    const child = spawn(frontFile, ["exec", "--state-dir", engine.dir, "x", "true"], { env: box.env });
    const ended = once(child, "exit");
    await until(() => engine.asked() > 0, "it asks");
    child.kill("SIGTERM");
    expect(await ended).toEqual([143, null]);
  });

  it("says what the CLI would of a lost connection, and of what it can't understand", async () => {
    for (const [answer, said] of [
      ["", /no answer from unix:|was lost while the command ran/],
      [hello, /the connection to unix:.*\/engine.sock was lost while the command ran/],
      [`${hello}\x82\x00`, /was lost while the command ran/],
      [`${hello}\x81\xff`, /was lost while the command ran/],
      [
        `${hello}${text('{"type":"error","data":"it broke \\u001b[31m","code":"guest_failed","hint":"start it"}')}`,
        /^error: it broke \\x1b\[31m\nhint: {2}start it\n/,
      ],
    ] as const) {
      await using engine = await fakeEngine(join(box.dir, "fake"), answer);
      const { code, stderr } = await run(
        frontFile,
        ["exec", "--state-dir", engine.dir, "x", "true"],
        box.env,
      );
      expect({ code, stderr }).toEqual({ code: 125, stderr: expect.stringMatching(said) });
    }
  });
});

const hello =
  "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: warren.v1\r\n\r\n";
const text = (payload: string) => `\x81${String.fromCharCode(payload.length)}${payload}`;

/** Something that listens as an engine would, answers everybody with these bytes, and hangs up; undefined: never answers. */
async function fakeEngine(dir: string, answer: string | undefined) {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const sockets = new Set<Socket>();
  let asked = 0;
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {}).on("close", () => sockets.delete(socket));
    socket.once("data", () => {
      asked++;
      if (answer !== undefined) socket.end(Buffer.from(answer, "latin1"));
    });
  });
  await new Promise<void>((resolve) => server.listen(join(dir, "engine.sock"), resolve));
  return {
    dir,
    asked: () => asked,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
