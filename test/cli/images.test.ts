import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { drawRegion, type RegionState } from "../../src/cli/image-progress.ts";
import { type Engine, openEngine } from "../../src/engine/engine.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { createServer, type WarrenServer } from "../../src/server/server.ts";
import { tarOf } from "../../src/testing/tar.ts";
import { eventually } from "../../src/testing/wait.ts";
import { fakeRuntime, removeStateDir } from "../engine/support/engine.ts";
import { type ImageLab, withImages } from "../engine/support/image-store.ts";
import { openTerminal } from "./terminal-window.ts";
import { mainFile, run } from "./workspace.ts";

const LAYER_MS = 150;
let dir = "";
let server: WarrenServer;
let engine: Engine;
let lab: ImageLab;
let env: NodeJS.ProcessEnv;

beforeAll(async () => {
  dir = mkdtempSync("/tmp/warren-images-");
  lab = withImages(await fakeRuntime(dir), join(dir, "images"), { layerMs: LAYER_MS });
  engine = await openEngine({
    stateDir: dir,
    runtimes: { fake: lab.runtime },
    defaultRuntime: "fake",
    log: silentLogger,
  });
  server = createServer(engine, { log: silentLogger });
  const socket = join(dir, "engine.sock");
  await server.listenUnix(socket);
  env = { ...process.env, WARREN_URL: `unix:${socket}`, TERM: "xterm" };
});
afterAll(async () => {
  await server.close();
  await engine.close();
  await removeStateDir(dir);
});

const warren = (args: string[], input: string | Buffer = "") =>
  run(process.execPath, [mainFile, ...args], env, input);

/** A directory to build of. */
function context(files: Record<string, string>): string {
  const path = mkdtempSync(join(dir, "context-"));
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(path, name, ".."), { recursive: true });
    writeFileSync(join(path, name), content);
  }
  return path;
}

describe("warren image", () => {
  it("pulls, lists and removes", async () => {
    const pulled = await warren(["image", "pull", "registry.test/a:1"]);
    expect(pulled).toMatchObject({ code: 0, stdout: Buffer.from("registry.test/a:1\n") });
    // A line for what is new, and nothing of a terminal.
    expect(pulled.stderr).toBe(
      "1234567890ab: downloading\nba0987654321: downloading\n1234567890ab: done\nba0987654321: done\n",
    );
    const quiet = await warren(["image", "pull", "-q", "--json", "registry.test/b:1"]);
    expect(quiet.stderr).toBe("");
    expect(JSON.parse(quiet.stdout.toString())).toMatchObject({ reference: "registry.test/b:1" });
    const table = (await warren(["image", "ls"])).stdout.toString();
    expect(table).toMatch(
      /^REFERENCE +ID +RUNTIME +SIZE +AGE\nregistry.test\/a:1 +[0-9a-f]{12} +fake +17 B +\S+\n/,
    );
    expect((await warren(["image", "ls", "-q", "registry.test/b"])).stdout.toString()).toBe(
      "registry.test/b:1\n",
    );
    expect(JSON.parse((await warren(["image", "ls", "--json"])).stdout.toString())).toHaveLength(2);
    expect(
      JSON.parse((await warren(["image", "inspect", "registry.test/b:1"])).stdout.toString()),
    ).toMatchObject({ reference: "registry.test/b:1", runtime: "fake", size: 17 });
    expect((await warren(["image", "inspect", "absent:1"])).code).toBe(1);
    const removed = await warren(["image", "rm", "registry.test/a:1", "absent:1", "registry.test/b:1"]);
    expect(removed.code).toBe(1);
    expect(removed.stdout.toString()).toBe("registry.test/a:1\nregistry.test/b:1\n");
    expect(removed.stderr).toContain('there is no image "absent:1" here');
    expect(await warren(["image", "rm", "-f", "absent:1"])).toMatchObject({ code: 0, stderr: "" });
    const failed = await warren(["image", "pull", "elsewhere/x:1"]);
    expect(failed.code).toBe(1);
    expect(failed.stderr).toContain("error: no registry has elsewhere/x:1");
  });

  it("builds of a directory, with its own Dockerfile and arguments", async () => {
    const path = context({
      Dockerfile: `COPY note /note\nRUN ["echo", "hello", "\${WHO}"]\n`,
      "other/My.Dockerfile": 'RUN ["echo", "the other"]\n',
      note: "x",
      secret: "x",
      ".dockerignore": "secret\n",
    });
    const built = await warren(["image", "build", "-t", "my/img:1", "--build-arg", "WHO=you", path]);
    expect(built.stdout.toString()).toMatch(/^sha256:[0-9a-f]{64}\n$/);
    expect(built.stderr).toMatch(/^STEP 1\/2: COPY note \/note\nSTEP 2\/2: RUN .*\nhello you\n/);
    const other = join(path, "other/My.Dockerfile");
    expect((await warren(["image", "build", "-t", "t:1", "-f", other, path])).stderr).toContain(
      "the other\n",
    );
    const outside = await warren(["image", "build", "-t", "t:1", "-f", "/etc/passwd", path]);
    expect(outside.code).toBe(2);
    expect(outside.stderr).toContain("/etc/passwd is not in");
    writeFileSync(join(path, "Dockerfile"), "COPY secret /secret\n");
    const lacking = await warren(["image", "build", "-q", "-t", "t:1", path]);
    expect(lacking.code).toBe(1);
    expect(lacking.stderr).toBe("error: COPY: there is no secret\n");
    const missing = await warren(["image", "build", "-t", "t:1", join(path, "absent")]);
    expect(missing).toMatchObject({ code: 1, stderr: `error: ${join(path, "absent")} does not exist\n` });
    expect((await warren(["image", "build", path])).code).toBe(2);
  });

  it("builds of a tar on stdin, and of nothing that is none", async () => {
    const tar = await tarOf({ Dockerfile: 'RUN ["echo", "from stdin"]\n' });
    const built = await warren(["image", "build", "-t", "s:1", "-"], tar);
    expect(built).toMatchObject({ code: 0 });
    expect(built.stderr).toContain("from stdin\n");
    const refused = await warren(["image", "build", "-t", "s:2", "-"], "FROM scratch\n".repeat(100));
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain("this is not a tar");
  });

  it.each(["SIGINT", "SIGTERM"] as const)(
    "gives up a build on %s, and says so by its exit code",
    async (signal) => {
      const path = context({ Dockerfile: 'RUN ["sleep", "600"]\n' });
      const child = spawn(process.execPath, [mainFile, "image", "build", "-t", "slow:1", path], {
        env,
        stdio: "pipe",
      });
      await once(child.stderr, "data");
      child.kill(signal);
      const [code] = await once(child, "exit");
      expect(code).toBe(signal === "SIGINT" ? 130 : 143);
      await eventually("the end of the build", () => lab.running === 0);
    },
  );
});

describe("progress in a terminal", () => {
  const node = `'${process.execPath}' '${mainFile}'`;

  it("is drawn in place, whatever its size becomes, and taken away at the end", async () => {
    using terminal = await openTerminal(env, 100, 20);
    terminal.keys(`${node} image pull registry.test/t:1`, "Enter");
    await terminal.shows(
      /0 of 2 layers done\n1234567890ab {2}downloading {2}\[#+-*\] {2}[\d.]+ MiB of 95.4 MiB\n/,
    );
    terminal.resize(50, 8);
    await terminal.shows(/^1234567890ab {2}downloading {2}\[#+-+$/m);
    terminal.resize(100, 20);
    const screen = await terminal.shows(/^registry\.test\/t:1\nhost>$/m);
    expect(screen).not.toMatch(/layers|downloading|#/);
  });

  it("of a build is its last lines, without what they would do to the terminal", async () => {
    const said = Array.from({ length: 40 }, (_, i) => {
      const words = `line ${i}\u001b[2J\u001b[31m 漢字漢字 ${"x".repeat(200)}`;
      return `RUN ${JSON.stringify(["echo", words])}`;
    });
    const path = context({ Dockerfile: `${said.join("\n")}\nRUN ["sleep", "600"]\n` });
    using terminal = await openTerminal(env, 60, 30);
    terminal.keys(`${node} image build -t slow:1 ${path}`, "Enter");
    const screen = await terminal.shows(/sleep/);
    const shown = screen.split("\n").filter((line) => line !== "");
    expect(shown[0]).toMatch(/^host>/);
    expect(screen).toMatch(/^line 39 漢字漢字 x+$/m);
    expect(screen).not.toMatch(/^line 20 /m);
    terminal.keys("C-c");
    const after = await terminal.shows(/cancelled\nhost>$/m);
    expect(after).not.toContain("line 39");
    expect(after.match(/host>/g)).toHaveLength(2);
    terminal.keys("echo code $?", "Enter");
    await terminal.shows(/^code 130$/m);
    await eventually("the end of the build", () => lab.running === 0);
  });
});

describe("the region", () => {
  const layer = (name: string, status: string, current?: number, total?: number) => ({
    layer: name,
    status,
    ...(current === undefined ? {} : { current }),
    ...(total === undefined ? {} : { total }),
  });

  it("never is wider or higher than the terminal, whatever is told", () => {
    const state: RegionState = { layers: new Map(), lines: [] };
    for (let i = 0; i < 100; i++) {
      state.layers.set(`l${i}`, layer("\u001b[2J\n漢".repeat(50), "s\tt", i, i % 3 === 0 ? 0 : 50));
      state.lines.push("漢字\u0007\u202e".repeat(50));
    }
    for (const [cols, rows] of [
      [80, 24],
      [20, 5],
      [1, 1],
      [2, 3],
      [200, 100],
    ] as const) {
      const lines = drawRegion(state, { cols, rows });
      expect(lines.length).toBeLessThanOrEqual(Math.max(1, Math.min(10, rows - 2)));
      for (const line of lines) {
        expect([...line].length).toBeLessThan(cols);
        expect(line).not.toMatch(/[\p{Cc}\p{Cf}]/u);
      }
    }
  });

  it("shows layers that are open before the end of the log, and counts the rest", () => {
    const layers = [layer("aaa", "done", 5, 5), layer("bbb", "extracting", 5, 10), layer("ccc", "waiting")];
    const state = { layers: new Map(layers.map((one) => [one.layer, one])), lines: ["one", "two"] };
    expect(drawRegion(state, { cols: 80, rows: 24 })).toEqual([
      "1 of 3 layers done",
      "bbb           extracting   [############------------]  5 B of 10 B",
      "ccc           waiting    ",
      "one",
      "two",
    ]);
    expect(drawRegion(state, { cols: 80, rows: 4 })).toHaveLength(2);
  });
});
