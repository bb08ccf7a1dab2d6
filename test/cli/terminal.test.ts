import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openTerminal } from "./terminal-window.ts";
import { mainFile, openWorkspace, type Workspace } from "./workspace.ts";

// The words of the command line are ours; nothing in them needs more than these quotes.
const warren = `'${process.execPath}' '${mainFile}'`;

describe("exec -it in a real terminal", () => {
  let box: Workspace;
  beforeAll(async () => {
    box = openWorkspace();
    await box.ok(["create", "--name", "t"]);
  });
  afterAll(() => box[Symbol.asyncDispose]());
  const enter = "exec -it -e 'PS1=inside> ' -e HISTFILE= t sh";

  it("is a terminal inside, sized like ours, and follows its size", async () => {
    using terminal = await openTerminal(box.env, 90, 20);
    terminal.keys(`${warren} ${enter}`, "Enter");
    await terminal.shows(/^inside>$/m);
    terminal.keys("tty; stty size; echo $TERM", "Enter");
    expect(await terminal.shows(/^20 90$/m)).toMatch(/^\/dev\/pts\/\d+$/m);
    terminal.resize(70, 15);
    terminal.keys("until stty size | grep '^15 70$'; do sleep 0.1; done", "Enter");
    await terminal.shows(/^15 70$/m);
    terminal.keys("exit 6", "Enter");
    await terminal.shows(/host>$/m);
    terminal.keys("echo code $?", "Enter");
    await terminal.shows(/^code 6$/m);
  });

  it("passes Ctrl-C, Ctrl-Z and Ctrl-D on as keys", async () => {
    using terminal = await openTerminal(box.env);
    terminal.keys(`${warren} ${enter}`, "Enter");
    await terminal.shows(/^inside>$/m);
    // The echo of the keys comes before the command runs, and a shell that is about to start it ignores Ctrl-C.
    terminal.keys("sh -c 'echo run''ning; exec sleep 1000'", "Enter");
    await terminal.shows(/^running$/m);
    terminal.keys("C-c");
    await terminal.shows(/\^C\s+inside>$/m);
    terminal.keys("echo after $?", "Enter");
    await terminal.shows(/^after 130$/m);
    terminal.keys("C-d");
    await terminal.shows(/host>$/m);
    terminal.keys("echo code $?", "Enter");
    await terminal.shows(/^code \d+$/m);
  });

  it("leaves output to the program inside", async () => {
    using terminal = await openTerminal(box.env);
    terminal.keys(`${warren} exec -it t sh -c 'stty -opost; printf "one\\ntwo\\r\\n"; stty opost'`, "Enter");
    // A bare line feed goes down, not back to the first column.
    await terminal.shows(/^one\n {3}two$/m);
  });

  it("gives the terminal back on every way out", async () => {
    using terminal = await openTerminal(box.env);
    const settings = async (label: string) => {
      terminal.keys(`clear; echo "${label} $(stty -g | cksum)"`, "Enter");
      const screen = await terminal.shows(new RegExp(`^${label} \\d+ \\d+$`, "m"));
      return new RegExp(`^${label} (.*)$`, "m").exec(screen)?.[1];
    };
    const before = await settings("before");
    // The shell inside ends on its own.
    terminal.keys(`${warren} ${enter}`, "Enter");
    await terminal.shows(/^inside>$/m);
    terminal.keys("exit", "Enter");
    await terminal.shows(/host>$/m);
    expect(await settings("ended")).toBe(before);
    // An error before the command runs.
    terminal.keys(`clear; ${warren} exec -it absent sh`, "Enter");
    await terminal.shows(/error: [\s\S]*host>$/m);
    expect(await settings("failed")).toBe(before);
    // A signal to the CLI.
    terminal.keys(`clear; ${warren} ${enter}`, "Enter");
    await terminal.shows(/^inside>$/m);
    for (const pid of terminal.programs()) process.kill(pid, "SIGTERM");
    await terminal.shows(/host>$/m);
    expect(await settings("signalled")).toBe(before);
    // The sandbox goes away underneath.
    await box.ok(["create", "--name", "gone"]);
    terminal.keys(`clear; ${warren} exec -it -e 'PS1=inside> ' gone sh`, "Enter");
    await terminal.shows(/^inside>$/m);
    await box.ok(["rm", "gone"]);
    await terminal.shows(/host>$/m);
    expect(await settings("lost")).toBe(before);
  });

  it("gives a terminal without our stdin with -t alone", async () => {
    const { stdout } = await box.warren(["exec", "-t", "t", "sh", "-c", "test -t 1 && stty size"]);
    expect(stdout.toString().trim()).toBe("24 80");
  });
});
