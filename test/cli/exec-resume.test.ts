import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createNodeClient } from "../../src/client/node/index.ts";
import { KEY, openRig, type Rig } from "../server/resume-rig.ts";
import { openTerminal } from "./terminal-window.ts";
import { mainFile, openWorkspace, type Workspace } from "./workspace.ts";

describe("exec over a bad network", () => {
  let workspace: Workspace;
  let rig: Rig;
  beforeAll(async () => {
    workspace = openWorkspace({ WARREN_API_KEY: KEY });
    await workspace.ok(["create", "--name", "t"]);
    rig = await openRig(createNodeClient({ url: `unix:${join(workspace.stateDir, "engine.sock")}` }));
  });
  afterAll(async () => {
    await rig?.[Symbol.asyncDispose]();
    await workspace[Symbol.asyncDispose]();
  });

  it("prints all of the output once, and nothing of its own", async () => {
    rig.proxy.cutAfter(Array.from({ length: 10 }, () => ({ bytes: 400_000, how: "reset" as const })));
    const before = rig.proxy.count;
    const args = ["--server", rig.proxy.url, "exec", "t", "--", "sh", "-c", "seq 900000; exit 4"];
    const { code, stdout, stderr } = await workspace.warren(args);
    expect({ code, stderr }).toEqual({ code: 4, stderr: "" });
    const lines = stdout.toString().split("\n");
    expect(lines).toHaveLength(900_001);
    expect(lines.every((line, index) => line === (index < 900_000 ? String(index + 1) : ""))).toBe(true);
    // One more where a cut met a connection that had brought nothing yet.
    expect(rig.proxy.count - before).toBeGreaterThanOrEqual(11);
  });

  it("keeps the shell of a terminal, and says why nothing moves", async () => {
    using terminal = await openTerminal(workspace.env);
    const warren = `'${process.execPath}' '${mainFile}' --server ${rig.proxy.url}`;
    terminal.keys(`${warren} exec -it -e 'PS1=inside> ' t sh`, "Enter");
    await terminal.shows(/^inside>$/m);
    rig.proxy.open(false);
    rig.proxy.cut("reset");
    await terminal.shows(/^warren: the connection was lost; reconnecting…$/m);
    terminal.keys("echo still $((40 + 2))", "Enter");
    rig.proxy.open(true);
    await terminal.shows(/^still 42$/m);
    terminal.keys("exit 6", "Enter");
    await terminal.shows(/host>$/m);
    terminal.keys("echo code $?", "Enter");
    await terminal.shows(/^code 6$/m);
  });
});
