import { readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { endProcess, openWorkspace, until, type Workspace } from "./workspace.ts";

let box: Workspace;
beforeAll(() => {
  box = openWorkspace();
});
afterAll(() => box[Symbol.asyncDispose]());

describe("a life", () => {
  it("creates, lists, inspects, runs in, stops, starts, extends and removes", async () => {
    const id = (await box.ok(["create", "--name", "life", "--label", "a=b", "-e", "GREETING=hello"])).trim();
    expect(id).toMatch(/^[a-z0-9-]+$/);
    expect(await box.ok(["exec", id.slice(0, 8), "--", "sh", "-c", 'echo "$GREETING"'])).toBe("hello\n");
    expect(await box.ok(["exec", "life", "echo", "-n", "--", "x"])).toBe("-- x");

    const listed = JSON.parse(await box.ok(["ls", "--json"]));
    expect(listed).toMatchObject([{ id, name: "life", status: "running", labels: { a: "b" } }]);
    // Made by hand, it stays until it is removed.
    expect(listed[0].expires_at).toBe("0001-01-01T00:00:00Z");
    expect(await box.ok(["ls", "-q"])).toBe(`${id}\n`);
    expect(await box.ok(["ls", "-q", "--label", "a=other"])).toBe("");
    const [header, row] = (await box.ok(["ls"])).split("\n");
    expect(header).toMatch(/^ID +NAME +IMAGE +STATUS +AGE +EXPIRES$/);
    expect(row).toMatch(/life +\S+ +running +\d+s +never$/);

    expect(JSON.parse(await box.ok(["inspect", "life"]))).toMatchObject({ id, labels: { a: "b" } });
    expect(JSON.parse(await box.ok(["stats", "--json"]))).toMatchObject([{ id, name: "life" }]);
    expect(await box.ok(["stats", "life"])).toContain("PIDS");

    expect(await box.ok(["stop", "-t", "1s", "life"])).toBe(`${id}\n`);
    const stopped = await box.warren(["exec", "life", "true"]);
    expect(stopped).toMatchObject({
      code: 125,
      stderr: expect.stringMatching(/^error: .*stopped.*\nhint: {2}/),
    });
    expect(await box.ok(["start", "life"])).toBe(`${id}\n`);
    expect(await box.ok(["extend", "life", "1h"])).toMatch(/^\d{4}-.*Z\n$/);
    expect(await box.ok(["ls"])).toMatch(/in (1h|59m)/);
    expect(await box.ok(["extend", "life", "never"])).toBe("never\n");

    expect(await box.ok(["rm", "life"])).toBe("life\n");
    expect(await box.warren(["rm", "life"])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^error: /),
    });
    expect(await box.ok(["rm", "-f", "life"])).toBe("life\n");
    expect(await box.ok(["ls", "--json"])).toBe("[]\n");
  });

  it("acts on several sandboxes and tells which one failed", async () => {
    const ids = await Promise.all(["one", "two"].map((name) => box.ok(["create", "--name", name])));
    const { code, stdout, stderr } = await box.warren(["rm", "one", "absent-one", "two"]);
    expect({ code, stdout: stdout.toString() }).toEqual({ code: 1, stdout: "one\ntwo\n" });
    expect(stderr).toMatch(/^error: .*absent-one/);
    expect(ids).toHaveLength(2);
  });
});

describe("the main command", () => {
  it("has its output printed, followed and searched, and its end told", async () => {
    const script = "echo out; echo err >&2; until [ -e /tmp/go ]; do sleep 0.01; done; echo ready; exit 5";
    await box.ok(["create", "--name", "main", "--", "sh", "-c", script]);
    expect((await box.warren(["logs", "--until", "nowhere", "--timeout", "100ms", "main"])).code).toBe(1);
    const waiting = box.warren(["wait", "main"]);
    const following = box.warren(["logs", "-f", "main"]);
    expect((await box.warren(["wait", "--timeout", "50ms", "main"])).code).toBe(1);
    await box.warren(["exec", "main", "touch", "/tmp/go"]);
    expect((await box.warren(["logs", "--until", "ready", "main"])).code).toBe(0);
    expect((await waiting).stdout.toString()).toBe("5\n");
    expect(await following).toMatchObject({ code: 0, stderr: "err\n" });
    expect((await following).stdout.toString()).toBe("out\nready\n");
    expect(await box.ok(["logs", "--tail", "1", "main"])).toBe("ready\n");
    expect((await box.warren(["logs", "--until", "nowhere", "main"])).code).toBe(1);
    expect(await box.ok(["logs", "--timestamps", "main"])).toMatch(/^\d{4}-\S+Z out\n\d{4}-\S+Z ready\n$/);
    expect(JSON.parse(await box.ok(["wait", "--json", "main"]))).toEqual({ exit_code: 5, status: "stopped" });
    await box.ok(["rm", "main"]);
  });

  it("may be missing, and limits and pauses need a runtime that can", async () => {
    await box.ok(["create", "--name", "plain"]);
    expect(await box.ok(["resume", "plain"])).toMatch(/^\w{16}\n$/);
    if (box.env.WARREN_RUNTIME === "fake") {
      for (const args of [
        ["pause", "plain"],
        ["update", "-m", "64m", "plain"],
      ]) {
        expect(await box.warren(args)).toMatchObject({ code: 1, stderr: expect.stringContaining("fake") });
      }
    }
    expect((await box.warren(["update", "plain"])).code).toBe(2);
    expect(await box.ok(["kill", "plain"])).toMatch(/^\S+\n$/);
    expect(await box.ok(["wait", "plain"])).toBe("unknown\n");
    await box.ok(["rm", "plain"]);
  });
});

describe("bad command lines", () => {
  it.each([
    [["frobnicate"], /unknown command/],
    [["ls", "--frobnicate"], /unknown option/],
    [["exec", "x"], /missing required argument/],
    [["create", "debian:12"], /--image IMAGE/],
    [["create", "--memory", "lots"], /not a size/],
    [["create", "--timeout", "0"], /never/],
    [["exec", "--timeout", "soon", "x", "true"], /not a duration/],
    [["rm"], /--all/],
    [["cp", "a", "b"], /exactly one side/],
    [["cp", "x:relative", "b"], /absolute path/],
    [["--server", "ftp://x", "ls"], /not a server URL/],
    [["--server", "http://x", "--state-dir", "/x", "ls"], /exclude/],
  ])("%j ends with 2 and says why", async (args, message) => {
    const { code, stdout, stderr } = await box.warren(args);
    expect({ code, stdout: stdout.toString() }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toMatch(/^error: /);
    expect(stderr).toMatch(message);
  });

  it("prints help on stdout when asked, and on stderr when nothing was said", async () => {
    const asked = await box.warren(["--help"]);
    expect(asked).toMatchObject({ code: 0, stderr: "" });
    expect(asked.stdout.toString()).toContain("Usage: warren");
    expect((await box.warren(["help", "exec"])).stdout.toString()).toContain("--timeout");
    const nothing = await box.warren([]);
    expect(nothing).toMatchObject({ code: 2, stderr: expect.stringContaining("Usage: warren") });
  });
});

describe("version and doctor", () => {
  it("tells the version without starting an engine", async () => {
    await using fresh = openWorkspace();
    const { client, server } = JSON.parse(await fresh.ok(["version", "--json"]));
    expect(await fresh.ok(["--version"])).toBe(`warren ${client.version}\n`);
    expect(client).toMatchObject({ version: expect.stringMatching(/^\d+\./), node: process.versions.node });
    expect(server).toBeUndefined();
    expect(fresh.enginePid()).toBeUndefined();
  });

  it("reports on the machine, and fails where nothing can run", async () => {
    const report = JSON.parse(await box.ok(["doctor", "--json"]));
    expect(report).toMatchObject({
      ok: true,
      node: process.versions.node,
      state_dir: { path: box.stateDir },
    });
    expect(report.runtimes.map((runtime: { runtime: string }) => runtime.runtime)).toContain(
      box.env.WARREN_RUNTIME,
    );
    expect(await box.ok(["doctor"])).toContain("runtime");
    const refused = await box.warren(["doctor", "--state-dir", "/dev/null/x"]);
    expect(refused.code).toBe(1);
    expect(refused.stdout.toString()).toContain("not usable");
  });
});

describe("which server", () => {
  it("says what to do when none answers at an address", async () => {
    const { code, stderr } = await box.warren(["--server", "http://127.0.0.1:1", "ls"]);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: /);
  });

  it("shows a hostile server's words without obeying them", async () => {
    const server = createServer((socket) => {
      socket.on("error", () => {});
      const body = JSON.stringify({ error: "no\u001b]0;owned\u0007", code: "internal", hint: "\u001b[2J" });
      socket.end(
        `HTTP/1.1 500 x\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
      );
    });
    await new Promise<void>((resolve) => {
      server.listen(0, "127.0.0.1", resolve);
    });
    const { port } = server.address() as { port: number };
    const { stderr } = await box.warren(["ls"], { env: { WARREN_URL: `http://127.0.0.1:${port}` } });
    server.close();
    expect(stderr).toContain("\\x1b]0;owned\\x07");
    expect(stderr).not.toContain("\u001b");
  });
});

function commandLine(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch {
    return [];
  }
}

describe("the engine of a state directory", () => {
  it("is started once by commands that come at the same moment", async () => {
    await using fresh = openWorkspace();
    const runs = await Promise.all(Array.from({ length: 5 }, () => fresh.warren(["ls", "--json"])));
    expect(runs.map(({ code, stderr }) => ({ code, stderr }))).toEqual(
      Array(5).fill({ code: 0, stderr: "" }),
    );
    // Whoever came second has gone, or is just going.
    const engines = () =>
      readdirSync("/proc").filter((pid) => /^\d+$/.test(pid) && commandLine(pid).includes(fresh.stateDir));
    await until(() => engines().length === 1, "one engine is left");
    expect(engines()).toEqual([String(fresh.enginePid())]);
  });

  it("comes back after it was killed, and finds its sandboxes", async () => {
    await using fresh = openWorkspace();
    await fresh.ok(["create", "--name", "kept"]);
    await fresh.ok(["exec", "kept", "sh", "-c", "echo still here > /tmp/warren-cli-note-$$; sleep 0"]);
    const before = fresh.enginePid();
    expect(before).toBeGreaterThan(0);
    await endProcess(before as number, "SIGKILL");
    expect(await fresh.ok(["exec", "kept", "echo", "again"])).toBe("again\n");
    expect(fresh.enginePid()).not.toBe(before);
    // A graceful end leaves them running as well.
    await endProcess(fresh.enginePid() as number, "SIGTERM");
    expect(JSON.parse(await fresh.ok(["ls", "--json"]))).toMatchObject([{ name: "kept", status: "running" }]);
  });

  it("tells why it can't start", async () => {
    await using fresh = openWorkspace({ WARREN_RUNTIME: "vm" });
    const { code, stderr } = await fresh.warren(["ls"]);
    expect(code).toBe(1);
    expect(stderr).toContain("the runtime is one of");
    expect(stderr).toContain("warren doctor");
  });
});
