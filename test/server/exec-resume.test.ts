import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { WebSocket } from "ws";
import type { SandboxApi } from "../../src/contracts/api.ts";
import { type Engine, openEngine } from "../../src/engine/engine.ts";
import { silentLogger } from "../../src/lib/log.ts";
import { fakeRuntime, removeStateDir } from "../engine/support/engine.ts";
import { tempDir } from "../engine/support/temp-dir.ts";
import { type Cut, cuts } from "./cutting-proxy.ts";
import { gather, OTHER_KEY, openRig, type Rig } from "./resume-rig.ts";

let engine: Engine;
const dir = tempDir();
let box: string;
let otherBox: string;

beforeAll(async () => {
  engine = await openEngine({
    stateDir: dir.path,
    runtimes: { fake: await fakeRuntime(dir.path) },
    defaultRuntime: "fake",
    log: silentLogger,
  });
  [box, otherBox] = (await Promise.all([engine.create({}), engine.create({})])).map(({ id }) => id) as [
    string,
    string,
  ];
});

afterAll(async () => {
  await engine?.close();
  await removeStateDir(dir.path);
});

/** As long as a busy machine may take. */
const eventually = <T>(read: () => T) => expect.poll(read, { timeout: 15_000 });

/** How many processes of the box have this argument. */
async function countInside(argument: string): Promise<number> {
  const { stdout } = await engine.exec(box, { cmd: ["sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null"] });
  return stdout.split("\0").filter((text) => text === argument).length;
}

/** A command of a shell that waits until it is let go, and how to do that past its stream. */
function gated(script: string): { script: string; letGo: () => Promise<unknown> } {
  const gate = `/tmp/gate-${randomBytes(6).toString("hex")}`;
  return {
    script: `echo ready; until [ -e ${gate} ]; do sleep 0.02; done; ${script}`,
    letGo: () => engine.files.write(box, gate, new Uint8Array(0)),
  };
}

const sha = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** A bad network: that many losses, of all kinds in turn, each after a random number of bytes. */
function* badly(count: number, meanBytes: number): Generator<{ bytes: number; how: Cut }> {
  for (let index = 0; index < count; index++) {
    // Silence is found by waiting, so there is less of it.
    const how = cuts[index % (index % 20 === 3 ? 4 : 3)] ?? "reset";
    yield { bytes: Math.ceil(Math.random() * 2 * meanBytes), how };
  }
}

/** Fast enough for a test, and slow enough for a busy machine. */
const quick = { heartbeatS: 0.25 };

describe("a stream whose connection is lost again and again", () => {
  it("brings 50 MB of output, byte for byte", async () => {
    await using rig = await openRig(engine, quick);
    const lines = 3_300_000;
    const script = `seq ${lines} & seq 1 2 $((2 * ${lines})) >&2; wait`;
    await using session = await rig.client.execStream(box, { cmd: ["sh", "-c", script] });
    rig.proxy.cutAfter(badly(100, 400_000));
    const said = gather(session);
    await said.done;
    expect(await session.exit).toEqual({ exit_code: 0 });
    expect(said.bytes).toBeGreaterThan(50_000_000);
    expect(rig.states.filter((state) => state === "restored").length).toBeGreaterThanOrEqual(90);
    const expected = (...args: (string | number)[]) =>
      sha(execFileSync("seq", args.map(String), { maxBuffer: 2 ** 28 }));
    expect(sha(said.stdout())).toBe(expected(lines));
    expect(sha(said.stderr())).toBe(expected(1, 2, 2 * lines));
    await eventually(() => rig.server.execLoad()).toEqual({ bytes: 0, streams: 0 });
  }, 90_000);

  it("takes 20 MB of input exactly once, and brings them back", async () => {
    await using rig = await openRig(engine, quick);
    await using session = await rig.client.execStream(box, { cmd: ["cat"], stdin: true });
    rig.proxy.cutAfter(badly(60, 500_000));
    const said = gather(session);
    const bytes = randomBytes(20_000_000);
    for (let at = 0; at < bytes.length; at += 300_000) await session.write(bytes.subarray(at, at + 300_000));
    await session.end();
    await said.done;
    expect(await session.exit).toEqual({ exit_code: 0 });
    expect(sha(said.stdout())).toBe(sha(bytes));
    expect(rig.states.filter((state) => state === "restored").length).toBeGreaterThanOrEqual(50);
  }, 90_000);

  it.each(cuts)("keeps a terminal and its shell through a %s", async (how) => {
    await using rig = await openRig(engine, quick);
    const cmd = ["sh"];
    await using session = await rig.client.execStream(box, {
      cmd,
      tty: true,
      stdin: true,
      cols: 80,
      rows: 24,
    });
    const said = gather(session);
    await session.write(Buffer.from("stty -echo; kept=$$; echo pid=$kept\r"));
    await eventually(() => said.stdout().toString()).toMatch(/pid=\d+\r\n/);
    const pid = /pid=(\d+)\r\n/.exec(said.stdout().toString())?.[1];
    rig.proxy.cut(how);
    await session.resize(101, 33);
    await session.write(Buffer.from("echo same=$$ $kept; stty size\r"));
    await eventually(() => said.stdout().toString()).toContain("33 101");
    expect(said.stdout().toString()).toContain(`same=${pid} ${pid}`);
    await session.write(Buffer.from("exit 3\r"));
    expect(await session.exit).toEqual({ exit_code: 3 });
    // A busy machine may be taken for a silent one.
    expect(rig.states.slice(0, 2)).toEqual(["lost", "restored"]);
  });
});

describe("a page in a browser", () => {
  // Node has one of its own from version 22 on.
  beforeAll(() => void vi.stubGlobal("WebSocket", globalThis.WebSocket ?? WebSocket));
  afterAll(() => void vi.unstubAllGlobals());

  it("goes on as well, and is held up by what it reads", async () => {
    await using rig = await openRig(engine, quick);
    await using session = await rig.page.execStream(box, { cmd: ["cat"], stdin: true });
    rig.proxy.cutAfter(cuts.map((how) => ({ bytes: 700_000, how })));
    const said = gather(session);
    const bytes = randomBytes(4_000_000);
    await session.write(bytes);
    await session.end();
    await said.done;
    expect(await session.exit).toEqual({ exit_code: 0 });
    expect(sha(said.stdout())).toBe(sha(bytes));
    expect(rig.states.filter((state) => state === "restored").length).toBeGreaterThanOrEqual(cuts.length);

    await using slow = await rig.page.execStream(box, { cmd: ["head", "-c", "5000000", "/dev/zero"] });
    await eventually(() => rig.server.execLoad().bytes).toBeGreaterThan(1_000_000);
    for (let count = 0; count < 5; count++) await countInside("nothing");
    expect(rig.server.execLoad().bytes).toBeLessThan(1024 * 1024 + 128 * 1024);
    const rest = gather(slow);
    await rest.done;
    expect(rest.bytes).toBe(5_000_000);
  });
});

describe("while the client is away", () => {
  async function away(rig: Rig): Promise<void> {
    rig.proxy.open(false);
    rig.proxy.cut("reset");
    await eventually(() => rig.states).toContain("lost");
  }

  it("a signal waits, and is sent once", async () => {
    await using rig = await openRig(engine, quick);
    const script =
      "n=0; trap 'n=$((n + 1)); echo caught $n' USR1; trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    await using session = await rig.client.execStream(box, { cmd: ["sh", "-c", script] });
    const said = gather(session);
    await eventually(() => said.stdout().toString()).toBe("ready\n");
    await away(rig);
    await session.signal("SIGUSR1");
    rig.proxy.open(true);
    await eventually(() => said.stdout().toString()).toBe("ready\ncaught 1\n");
    rig.proxy.cut("reset");
    await eventually(() => rig.states.filter((state) => state === "restored").length).toBeGreaterThan(1);
    await session.signal("SIGTERM");
    expect(await session.exit).toMatchObject({ exit_code: 9 });
    await said.done;
    expect(said.stdout().toString()).toBe("ready\ncaught 1\n");
  });

  it("what the command says and how it ends is kept", async () => {
    await using rig = await openRig(engine, quick);
    const { script, letGo } = gated("echo last words; echo of the command >&2; exit 5");
    await using session = await rig.client.execStream(box, { cmd: ["sh", "-c", script] });
    const said = gather(session);
    await eventually(() => said.stdout().toString()).toBe("ready\n");
    await away(rig);
    await letGo();
    await eventually(() => countInside(script)).toBe(0);
    rig.proxy.open(true);
    await said.done;
    expect(await session.exit).toEqual({ exit_code: 5 });
    expect(said.stdout().toString()).toBe("ready\nlast words\n");
    expect(said.stderr().toString()).toBe("of the command\n");
    await eventually(() => rig.server.execLoad()).toEqual({ bytes: 0, streams: 0 });
  });

  it("the loss of the sandbox is kept too", async () => {
    await using rig = await openRig(engine, quick);
    const { id } = await engine.create({});
    await using session = await rig.client.execStream(id, { cmd: ["sleep", "600"] });
    await away(rig);
    await engine.remove(id);
    rig.proxy.open(true);
    // The second while the reason is not known yet.
    const lost = expect.stringMatching(/^(sandbox_wrong_state|guest_failed)$/);
    await expect(session.exit).rejects.toMatchObject({ code: lost });
  });

  it("the command is held up once 1 MiB waits", async () => {
    await using rig = await openRig(engine, quick);
    const { script, letGo } = gated("head -c 20000000 /dev/zero; sleep 0");
    await using session = await rig.client.execStream(box, { cmd: ["sh", "-c", script] });
    const said = gather(session);
    await eventually(() => said.bytes).toBe(6);
    await away(rig);
    await letGo();
    await eventually(() => rig.server.execLoad().bytes).toBeGreaterThan(1_000_000);
    // Other calls go on meanwhile, and it still runs.
    for (let count = 0; count < 5; count++) expect(await countInside(script)).toBe(1);
    expect(rig.server.execLoad().bytes).toBeLessThan(1024 * 1024 + 128 * 1024);
    rig.proxy.open(true);
    await said.done;
    expect(said.bytes).toBe(20_000_006);
  });

  it("its whole tree is killed when the grace is over, and the client is told", async () => {
    await using rig = await openRig(engine, { ...quick, graceS: 0.5 });
    const script = "setsid sleep 38117 & echo ready; sleep 38117";
    await using session = await rig.client.execStream(box, { cmd: ["sh", "-c", script] });
    const said = gather(session);
    await eventually(() => said.bytes).toBe(6);
    await eventually(() => countInside("38117")).toBe(2);
    await away(rig);
    await eventually(() => countInside("38117")).toBe(0);
    await expect(session.exit).rejects.toMatchObject({
      code: "engine_unavailable",
      message: expect.stringContaining("did not come back within 0.5 s"),
    });
    await expect(said.done).rejects.toMatchObject({ code: "engine_unavailable" });
  });

  it("who comes back too late is told that the command is gone", async () => {
    await using rig = await openRig(engine, quick);
    const raw = rig.open(box);
    await raw.send({ cmd: ["sleep", "38118"], binary: true, resumable: true, grace: 0.2 });
    await eventually(() => raw.find("started")).toMatchObject({ grace: 0.2 });
    await raw.send({ type: "ack", frames: 0 });
    const resume = raw.find("started")?.session;
    raw.socket.terminate();
    await eventually(() => rig.server.execLoad().streams).toBe(0);
    const late = rig.open(box);
    await late.send({ resume, received: 0 });
    await eventually(() => late.closed?.code).toBe(1008);
    expect(late.frames).toEqual([
      { type: "error", code: "exec_session_not_found", data: expect.any(String), hint: expect.any(String) },
    ]);
  });

  it("giving up ends the call at once", async () => {
    await using rig = await openRig(engine, { ...quick, graceS: 1 });
    const stop = new AbortController();
    const session = await rig.client.execStream(box, { cmd: ["sleep", "38119"] }, { signal: stop.signal });
    await away(rig);
    stop.abort();
    await expect(session.exit).rejects.toMatchObject({ code: "cancelled" });
    await session[Symbol.asyncDispose]();
    await eventually(() => countInside("38119")).toBe(0);
  });

  it("a server that closes kills the command", async () => {
    const rig = await openRig(engine, quick);
    const session = await rig.client.execStream(box, { cmd: ["sleep", "38120"] });
    session.exit.catch(() => {});
    await away(rig);
    await rig.server.close();
    expect(await countInside("38120")).toBe(0);
    await session[Symbol.asyncDispose]();
    await rig.proxy[Symbol.asyncDispose]();
  });

  it("only so many are kept", async () => {
    await using rig = await openRig(engine, { ...quick, maxAway: 2 });
    const raws = [];
    for (const seconds of ["38121", "38122", "38123"]) {
      const raw = rig.open(box);
      await raw.send({ cmd: ["sleep", seconds], binary: true, resumable: true });
      await raw.send({ type: "ping" });
      await eventually(() => raw.find("pong")).toBeDefined();
      raws.push(raw);
      raw.socket.terminate();
      await eventually(() => raw.closed).toBeDefined();
    }
    await eventually(() => rig.server.execLoad().streams).toBe(2);
    await eventually(() => countInside("38121")).toBe(0);
    expect(await countInside("38123")).toBe(1);
  });
});

describe("who may take a stream up again", () => {
  async function started(rig: Rig, api: Pick<SandboxApi, "get"> = engine) {
    await api.get(box);
    const raw = rig.open(box);
    await raw.send({ cmd: ["sh", "-c", "echo hello; exec cat"], stdin: true, binary: true, resumable: true });
    await eventually(() => raw.text).toBe("hello\n");
    await raw.send({ type: "ack", frames: 0 });
    return { raw, token: raw.find("started")?.session as string };
  }

  it("is not somebody with a wrong token, another key, or at another sandbox", async () => {
    await using rig = await openRig(engine);
    const { raw, token } = await started(rig);
    expect(Buffer.from(token, "base64url")).toHaveLength(32);
    for (const [id, key, resume] of [
      [box, undefined, randomBytes(32).toString("base64url")],
      [box, OTHER_KEY, token],
      [otherBox, undefined, token],
    ] as const) {
      const thief = rig.open(id, key);
      await thief.send({ resume, received: 0 });
      await eventually(() => thief.closed?.code).toBe(1008);
      expect(thief.frames.map(({ code }) => code)).toEqual(["exec_session_not_found"]);
      expect(thief.output).toEqual([]);
    }
    // Whom it belongs to has noticed nothing, and can take it up: the same attempt, with what it takes.
    expect(raw.closed).toBeUndefined();
    const owner = rig.open(box);
    await owner.send({ resume: token, received: 0 });
    await eventually(() => owner.text).toBe("hello\n");
  });

  it("is its owner on a second connection, and the first one is closed", async () => {
    await using rig = await openRig(engine);
    const { raw, token } = await started(rig);
    const second = rig.open(box);
    await second.send({ resume: token, received: 1 });
    await eventually(() => second.find("resumed")).toEqual({ type: "resumed", received: 0 });
    await eventually(() => raw.closed?.code).toBe(1008);
    expect(raw.find("error")).toMatchObject({ code: "cancelled" });
    await second.send(Buffer.from("\0more\n"));
    await eventually(() => second.text).toBe("more\n");
    expect(raw.text).toBe("hello\n");
  });

  it("is its owner who said that it comes back", async () => {
    await using rig = await openRig(engine);
    const { raw, token } = await started(rig);
    raw.socket.close(4000);
    await eventually(() => raw.closed?.code).toBe(4000);
    const second = rig.open(box);
    await second.send({ resume: token, received: 0 });
    await eventually(() => second.text).toBe("hello\n");
  });

  it("is not for long a client that may not know how", async () => {
    await using rig = await openRig(engine, { unconfirmedGraceS: 0.1 });
    const raw = rig.open(box);
    await raw.send({ cmd: ["sleep", "38124"], binary: true, resumable: true });
    await eventually(() => raw.find("started")).toBeDefined();
    raw.socket.terminate();
    await eventually(() => rig.server.execLoad().streams).toBe(0);
    await eventually(() => countInside("38124")).toBe(0);
  });

  it("is nobody after a client has closed the stream", async () => {
    await using rig = await openRig(engine);
    const session = await rig.client.execStream(box, { cmd: ["sleep", "38125"] });
    session.exit.catch(() => {});
    await eventually(() => countInside("38125")).toBe(1);
    await session[Symbol.asyncDispose]();
    await eventually(() => rig.server.execLoad().streams).toBe(0);
    await eventually(() => countInside("38125")).toBe(0);
  });

  it("is nobody but clients that ask for it: others' commands die with the connection", async () => {
    await using rig = await openRig(engine);
    const raw = rig.open(box);
    await raw.send({ cmd: ["sleep", "38126"], binary: true });
    await eventually(() => raw.find("started")).toEqual({ type: "started" });
    raw.socket.terminate();
    await eventually(() => countInside("38126")).toBe(0);
  });
});

describe("a client that does not keep to the protocol", () => {
  const start = (script: string) => ({
    cmd: ["sh", "-c", script],
    stdin: true,
    binary: true,
    resumable: true,
  });

  it("and never acknowledges holds its command up, at bounded memory, and can still go on", async () => {
    await using rig = await openRig(engine);
    const raw = rig.open(box);
    await raw.send(start("head -c 10000000 /dev/zero; echo through >&2"));
    await eventually(() => Buffer.concat(raw.output).length).toBeGreaterThan(900_000);
    for (let count = 0; count < 5; count++) await countInside("nothing");
    const load = rig.server.execLoad().bytes;
    expect(load).toBeGreaterThan(900_000);
    expect(load).toBeLessThan(1024 * 1024 + 128 * 1024);
    raw.socket.on("message", () => void raw.send({ type: "ack", frames: raw.output.length }));
    await raw.send({ type: "ack", frames: raw.output.length });
    await eventually(() => raw.output.at(-1)?.toString()).toBe("through\n");
    expect(Buffer.concat(raw.output)).toHaveLength(10_000_008);
  });

  it("shares the memory of all with others, who go on", async () => {
    await using rig = await openRig(engine, { totalBufferBytes: 512 * 1024 });
    const lazy = rig.open(box);
    await lazy.send(start("head -c 50000000 /dev/zero"));
    await eventually(() => rig.server.execLoad().bytes).toBeGreaterThan(400_000);
    const before = rig.server.execLoad().bytes;
    expect(before).toBeLessThan(1024 * 1024);
    await using session = await rig.client.execStream(box, { cmd: ["head", "-c", "3000000", "/dev/zero"] });
    const said = gather(session);
    await said.done;
    expect(said.bytes).toBe(3_000_000);
    expect(await session.exit).toEqual({ exit_code: 0 });
    lazy.socket.close(1000);
    await eventually(() => rig.server.execLoad().bytes).toBe(0);
  });

  it.each([
    ["acknowledges what was never sent", { type: "ack", frames: 1_000 }],
    ["acknowledges less than nothing", { type: "ack", frames: -1 }],
    ["sends what nobody knows", { type: "dance" }],
    ["sends no channel", Buffer.alloc(0)],
  ])("and %s ends its command", async (_name, frame) => {
    await using rig = await openRig(engine);
    const raw = rig.open(box);
    await raw.send(start("sleep 38127"));
    await eventually(() => raw.find("started")).toBeDefined();
    await raw.send(frame);
    await eventually(() => raw.closed?.code).toBe(1008);
    expect(raw.find("error")).toMatchObject({ code: "invalid_request" });
    await eventually(() => countInside("sleep 38127")).toBe(0);
    expect(rig.server.execLoad().streams).toBe(0);
  });

  it("and sends more input than may wait ends its command", async () => {
    await using rig = await openRig(engine);
    const raw = rig.open(box);
    await raw.send(start("sleep 38128"));
    await eventually(() => raw.find("started")).toBeDefined();
    for (let count = 0; count < 10; count++) await raw.send(Buffer.alloc(512 * 1024));
    await eventually(() => raw.closed?.code).toBe(1008);
    await eventually(() => countInside("sleep 38128")).toBe(0);
  });

  it("and sends a frame beyond 1 MiB has no second try", async () => {
    await using rig = await openRig(engine);
    const raw = rig.open(box);
    await raw.send(start("sleep 38129"));
    await eventually(() => raw.find("started")).toBeDefined();
    await raw.send(Buffer.alloc(1024 * 1024 + 1));
    await eventually(() => rig.server.execLoad().streams).toBe(0);
    await eventually(() => countInside("sleep 38129")).toBe(0);
  });

  it("and is somewhere where it can't be is refused, and the command stays", async () => {
    await using rig = await openRig(engine);
    const raw = rig.open(box);
    await raw.send(start("echo hello; cat"));
    await eventually(() => raw.text).toBe("hello\n");
    await raw.send({ type: "ack", frames: 1 });
    await raw.send({ type: "ping" });
    await eventually(() => raw.find("pong")).toBeDefined();
    const resume = raw.find("started")?.session;
    for (const received of [0, 2, 0.5, "1"]) {
      const lost = rig.open(box);
      await lost.send({ resume, received });
      await eventually(() => lost.closed?.code).toBe(1008);
      expect(lost.find("error")).toMatchObject({ code: "invalid_request" });
    }
    expect(raw.closed).toBeUndefined();
    await raw.send(Buffer.from("\0still here\n"));
    await eventually(() => raw.text).toBe("hello\nstill here\n");
  });

  it("and wants text but resumable is refused", async () => {
    await using rig = await openRig(engine);
    const raw = rig.open(box);
    await raw.send({ cmd: ["true"], resumable: true });
    await eventually(() => raw.closed?.code).toBe(1008);
    expect(raw.find("error")).toMatchObject({ code: "invalid_request" });
  });

  it("and says nothing for long is taken for dead", async () => {
    await using rig = await openRig(engine, { heartbeatS: 0.05, graceS: 0.2 });
    const raw = rig.open(box);
    await raw.send(start("sleep 38130"));
    await eventually(() => raw.find("started")).toBeDefined();
    await raw.send({ type: "ack", frames: 0 });
    await raw.send({ type: "ping" });
    await eventually(() => raw.find("pong")).toBeDefined();
    raw.socket.pause();
    await eventually(() => rig.server.execLoad().streams).toBe(0);
    await eventually(() => countInside("sleep 38130")).toBe(0);
    raw.socket.resume();
  });
});
