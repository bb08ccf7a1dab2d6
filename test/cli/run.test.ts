import { type ChildProcess, spawn } from "node:child_process";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import type { SandboxInfo } from "../../src/contracts/sandbox.ts";
import { openTerminal } from "./terminal-window.ts";
import { endProcess, mainFile, openWorkspace, until, type Workspace } from "./workspace.ts";

let box: Workspace;
/** For a run that lasts while the other tests go on. */
let aside: Workspace;
let lasting: Running;
beforeAll(() => {
  box = openWorkspace();
  aside = openWorkspace();
  lasting = start(["run", "--", "sh", "-c", "echo ready; sleep 1000"], aside);
});
afterAll(async () => {
  await box[Symbol.asyncDispose]();
  await aside[Symbol.asyncDispose]();
});

const sandboxes = async (from = box): Promise<SandboxInfo[]> => JSON.parse(await from.ok(["ls", "--json"]));
const isAlone = () => until(async () => (await sandboxes()).length === 0, "no sandbox is left");

interface Running {
  child: ChildProcess;
  output(): string;
  exit: Promise<[number | null, string | null]>;
}

function start(args: string[], { env } = box): Running {
  const child = spawn(process.execPath, [mainFile, ...args], { env, stdio: "pipe" });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  const exit = new Promise<[number | null, string | null]>((resolve) => {
    child.once("exit", (code, signal) => resolve([code, signal]));
  });
  return { child, exit, output: () => output };
}

describe("run", () => {
  afterEach(async () => {
    await box.ok(["rm", "--all"]);
  });

  it.each([
    ["exit 3", 3],
    ["kill -KILL $$", 137],
  ])("ends with the command's exit code: %s", async (script, code) => {
    const { stdout, ...ended } = await box.warren([
      "run",
      "--",
      "sh",
      "-c",
      `echo out; echo err >&2; ${script}`,
    ]);
    expect(ended).toMatchObject({ code, stderr: "err\n" });
    expect(stdout.toString()).toBe("out\n");
    expect(await sandboxes()).toEqual([]);
  });

  it("ends with 126 and 127 when the command can't be run, and with 125 when Warren can't", async () => {
    expect((await box.warren(["run", "no-such-program"])).code).toBe(127);
    expect((await box.warren(["run", "/etc"])).code).toBe(126);
    const failed = await box.warren(["run", "--runtime", "moon", "true"]);
    expect(failed).toMatchObject({ code: 125, stderr: expect.stringContaining('no runtime "moon"') });
    expect(await sandboxes()).toEqual([]);
  });

  it("passes stdin on, to its end", async () => {
    const input = "x".repeat(1_000_000);
    const { stdout, code } = await box.warren(["run", "--", "cat"], { input });
    expect(code).toBe(0);
    expect(stdout.toString()).toBe(input);
  });

  it("takes what create takes, and leaves the options of the program alone", async () => {
    const made = ["--name", "made", "-e", "A=b", "-w", "/tmp", "-l", "k=v"];
    const { code, stdout, stderr } = await box.warren(["run", "--keep", ...made, "sh", "-c", "echo $A; pwd"]);
    expect([code, stdout.toString()]).toEqual([0, "b\n/tmp\n"]);
    const [kept] = await sandboxes();
    expect(kept).toMatchObject({ name: "made", labels: { k: "v" }, status: "running" });
    expect(kept?.expires_at).toMatch(/^0001/);
    expect(stderr).toBe(`sandbox ${kept?.id} is kept\n`);
    expect(kept).not.toHaveProperty("cmd");
  });

  it("ends it after its time with 124", async () => {
    const ended = await box.warren(["run", "--timeout", "1s", "--", "sleep", "100"]);
    expect(ended).toMatchObject({ code: 124, stderr: expect.stringContaining("after 1s") });
    expect(await sandboxes()).toEqual([]);
  });

  it("is detached as the main command of a sandbox that stays", async () => {
    const id = (await box.ok(["run", "-d", "--timeout", "1h", "--", "sh", "-c", "echo out; exit 4"])).trim();
    expect(await box.ok(["wait", id])).toBe("4\n");
    expect(await box.ok(["logs", "-f", id])).toBe("out\n");
    const [info] = await sandboxes();
    expect(info).toMatchObject({ id, status: "stopped" });
    expect(Date.parse(info?.expires_at ?? "") - Date.now()).toBeGreaterThan(3_000_000);
  });

  it.each([
    [["run"], /missing required argument/],
    [["run", "-d", "--rm", "true"], /nobody removes/],
    [["run", "-d", "-t", "true"], /neither our stdin nor a terminal/],
    [["run", "--rm", "--keep", "true"], /exclude each other/],
    [["run", "--timeout", "soon", "true"], /not a duration/],
  ])("%j ends with 2 and says why", async (args, message) => {
    expect(await box.warren(args)).toMatchObject({ code: 2, stderr: expect.stringMatching(message) });
  });

  it("hands signals to the command, and the second SIGINT ends it", async () => {
    const polite = start([
      "run",
      "sh",
      "-c",
      "trap 'echo got TERM; exit 5' TERM; echo ready; while :; do sleep 0.1; done",
    ]);
    await until(() => polite.output().includes("ready"), "the command runs");
    polite.child.kill("SIGTERM");
    expect(await polite.exit).toEqual([5, null]);
    expect(polite.output()).toContain("got TERM");
    expect(await sandboxes()).toEqual([]);

    const deaf = start([
      "run",
      "sh",
      "-c",
      "trap 'echo got INT' INT; echo ready; while :; do sleep 0.1; done",
    ]);
    await until(() => deaf.output().includes("ready"), "the command runs");
    deaf.child.kill("SIGINT");
    await until(() => deaf.output().includes("got INT"), "the first SIGINT arrives");
    deaf.child.kill("SIGINT");
    expect(await deaf.exit).toEqual([130, null]);
    expect(await sandboxes()).toEqual([]);
  });

  it("leaves nothing, whenever a signal comes", { timeout: 120_000 }, async () => {
    for (const ms of [0, 60, 100, 140, 180, 220, 260, 300, 400, 600]) {
      const running = start(["run", "--", "sleep", "1000"]);
      await delay(ms);
      running.child.kill("SIGINT");
      const [code, signal] = await running.exit;
      // Very early it is Node that is ended.
      expect(code === 130 || signal === "SIGINT", `${ms} ms: ${code} ${signal}: ${running.output()}`).toBe(
        true,
      );
      await isAlone();
    }
  });

  it("leaves nothing when the signal comes while the answer is on its way", async () => {
    // Between the two, an answer to a creation never arrives.
    const path = join(box.stateDir, "slow.sock");
    const answered = new Promise<void>((resolve) => {
      const server = createServer((client) => {
        let isCreating = false;
        const engine = connect(join(box.stateDir, "engine.sock"));
        for (const socket of [client, engine]) socket.on("error", () => {});
        client.on("data", (bytes: Buffer) => {
          isCreating ||= bytes.toString("latin1").startsWith("POST /api/v1/sandboxes ");
          engine.write(bytes);
        });
        engine.on("data", (bytes: Buffer) => (isCreating ? resolve() : client.write(bytes)));
        client.on("close", () => engine.destroy());
        engine.on("close", () => client.destroy());
      }).listen(path);
      onTestFinished(() => void server.close());
    });
    const running = start(["--server", `unix:${path}`, "run", "--", "sleep", "1000"]);
    await answered;
    running.child.kill("SIGINT");
    expect(await running.exit).toEqual([130, null]);
    expect(await sandboxes()).toEqual([]);
  });

  it("says so when the sandbox could not be removed", async () => {
    const server = `unix:${box.stateDir}/engine.sock`;
    const running = start(["--server", server, "run", "--", "sh", "-c", "echo ready; sleep 1000"]);
    await until(() => running.output().includes("ready"), "the command runs");
    await endProcess(box.enginePid() ?? 0, "SIGKILL");
    expect(await running.exit).toEqual([125, null]);
    const [{ id } = { id: "" }] = await sandboxes();
    expect(running.output()).toContain(`sandbox ${id} could not be removed`);
    expect(running.output()).toContain(`warren rm ${id}`);
  });
});

describe("run in a real terminal", () => {
  // The words of the command line are ours; nothing in them needs more than these quotes.
  const warren = `'${process.execPath}' '${mainFile}'`;
  const enter = `${warren} run -e 'PS1=inside> ' -e HISTFILE= sh`;

  it("is a terminal inside, sized like ours, and passes keys on", async () => {
    using terminal = await openTerminal(box.env, 90, 20);
    terminal.keys(enter, "Enter");
    await terminal.shows(/^inside>$/m);
    terminal.keys("tty; stty size", "Enter");
    expect(await terminal.shows(/^20 90$/m)).toMatch(/^\/dev\/pts\/\d+$/m);
    terminal.resize(70, 15);
    terminal.keys("until stty size | grep '^15 70$'; do sleep 0.1; done", "Enter");
    await terminal.shows(/^15 70$/m);
    terminal.keys("sh -c 'echo run''ning; exec sleep 1000'", "Enter");
    await terminal.shows(/^running$/m);
    terminal.keys("C-c");
    await terminal.shows(/\^C\s+inside>$/m);
    terminal.keys("exit 6", "Enter");
    await terminal.shows(/host>$/m);
    terminal.keys("echo code $?", "Enter");
    await terminal.shows(/^code 6$/m);
    await isAlone();
  });

  it("gives none with -T, nor when stdout is none", async () => {
    using terminal = await openTerminal(box.env);
    terminal.keys(`${warren} run -T -- sh -c 'test -t 0 || echo no'' terminal'`, "Enter");
    await terminal.shows(/^no terminal\nhost>$/m);
    terminal.keys(`clear; ${warren} run -- sh -c 'test -t 0 || echo none'' either' | cat`, "Enter");
    await terminal.shows(/^none either$/m);
    await isAlone();
  });

  it.each(["SIGTERM", "SIGHUP"] as const)(
    "leaves nothing after %s, and gives the terminal back",
    async (signal) => {
      using terminal = await openTerminal(box.env);
      terminal.keys(enter, "Enter");
      await terminal.shows(/^inside>$/m);
      for (const pid of terminal.programs()) process.kill(pid, signal);
      await terminal.shows(/host>$/m);
      terminal.keys("stty -a | grep -o ' icanon'", "Enter");
      await terminal.shows(/^ icanon$/m);
      await isAlone();
    },
  );

  it("leaves nothing when its terminal goes away", async () => {
    {
      using terminal = await openTerminal(box.env);
      terminal.keys(enter, "Enter");
      await terminal.shows(/^inside>$/m);
      expect((await sandboxes()).length).toBe(1);
    }
    await isAlone();
  });
});

describe("a run that lasts", () => {
  it("has its sandbox expire soon after it was killed itself, and not before", {
    timeout: 120_000,
  }, async () => {
    await until(() => lasting.output().includes("ready"), "the command runs");
    const [{ created_at = "", expires_at = "" } = {}] = await sandboxes(aside);
    const leftMs = (expiry: string) => Date.parse(expiry) - Date.now();
    expect(leftMs(expires_at)).toBeGreaterThan(60_000);
    expect(leftMs(expires_at)).toBeLessThanOrEqual(120_000);
    // What it had at first was two minutes; it asks for more every half minute.
    let renewed = expires_at;
    for (let second = 0; second < 60 && Date.parse(renewed) - Date.parse(created_at) < 135_000; second++) {
      await delay(1000);
      renewed = (await sandboxes(aside))[0]?.expires_at ?? "";
    }
    expect(Date.parse(renewed) - Date.parse(created_at)).toBeGreaterThan(135_000);
    lasting.child.kill("SIGKILL");
    await lasting.exit;
    expect(leftMs((await sandboxes(aside))[0]?.expires_at ?? "")).toBeLessThanOrEqual(120_000);
  });
});
