import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, copyFile, mkdir, mkdtemp, open, readFile, rm } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ExecSession } from "../../src/contracts/exec.ts";
import { run } from "../../src/lib/run.ts";
import { ATTACKS, type Lab, openLab, outcomesOf, outputOf } from "./support/lab.ts";
import { OF_TESTS } from "./support/of-tests.ts";

let lab: Lab;
/** A directory of the host that shows in the image `host`: everybody may enter it. It is there before the engine looks. */
let shown: string;

beforeAll(async () => {
  shown = await mkdtemp(`/opt/${OF_TESTS}`);
  await chmod(shown, 0o755);
  lab = await openLab({ programs: ["shared", "walk"] });
});
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
  await rm(shown, { recursive: true });
});

/** Output of a session up to what `enough` accepts, or its end. */
async function textUntil(session: ExecSession, enough: (text: string) => boolean): Promise<string> {
  let text = "";
  for await (const { data } of session.output) {
    text += Buffer.from(data).toString();
    if (enough(text)) break;
  }
  return text;
}

it("a sandbox that takes all inotify instances leaves the other sandboxes, and the host, theirs", async () => {
  const [greedy, neighbour] = [await lab.sandbox(), await lab.sandbox()];
  await lab.engine.files.mkdir(neighbour, "/watched");
  const sessions: ExecSession[] = [];
  try {
    for (const user of ["root", "mallory", "2000", "2001"]) {
      const session = await lab.engine.execStream(greedy, { cmd: [`${ATTACKS}/shared`, "inotify"], user });
      sessions.push(session);
      await textUntil(session, (text) => text.split("\n").length > 4);
    }
    // In the other sandbox, a watch still begins and tells.
    const seen: string[] = [];
    const stop = AbortSignal.timeout(30_000);
    const watching = (async () => {
      const events = lab.engine.files.watch(neighbour, "/watched", { signal: stop });
      for await (const { path } of events) {
        seen.push(path);
        break;
      }
    })().catch((error: unknown) => error);
    let done = false;
    void watching.finally(() => {
      done = true;
    });
    for (let i = 0; !done; i++) await lab.engine.files.write(neighbour, `/watched/${i}`, Buffer.from("x"));
    expect(await watching).toBeUndefined();
    expect(seen).toHaveLength(1);
    // On the host, as the user who runs the engine.
    const child = spawn(lab.program("shared"), ["watch", lab.image], { stdio: ["ignore", "pipe", "ignore"] });
    const [first] = (await Promise.race([once(child.stdout, "data"), once(child, "exit")])) as [unknown];
    child.kill("SIGKILL");
    expect(String(first)).toBe("ready\n");
  } finally {
    await Promise.all(sessions.map((session) => session[Symbol.asyncDispose]()));
    await lab.engine.remove(greedy);
    await lab.engine.remove(neighbour);
  }
});

describe("the image `host`, whose programs are the host's own files", () => {
  let sandbox: string;

  beforeAll(async () => {
    await copyFile(lab.program("walk"), join(shown, "program"));
    await run("mkfifo", ["--mode=0666", join(shown, "fifo")]);
    sandbox = await lab.sandbox({ image: "host" });
    for (const name of ["shared", "walk"]) {
      const bytes = await readFile(lab.program(name));
      await lab.engine.files.write(sandbox, `${ATTACKS}/${name}`, bytes, { mode: 0o755 });
    }
    expect((await lab.engine.files.stat(sandbox, `${shown}/program`)).type).toBe("file");
  });
  afterAll(() => lab.engine.remove(sandbox));

  it("does not tell inside what the host does with them", async () => {
    await using watcher = await lab.engine.execStream(sandbox, {
      cmd: [`${ATTACKS}/shared`, "watch", `${shown}/program`],
    });
    const output = textUntil(watcher, () => false);
    // The watch stands once a read of its own from inside would be told: the program says so.
    await expect.poll(() => lab.engine.stats(sandbox).then(({ pid_count }) => pid_count)).toBeGreaterThan(1);
    for (let i = 0; i < 50; i++) {
      await readFile(join(shown, "program"));
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await watcher.signal("SIGTERM").catch(() => {}); // it may have ended already
    expect(await output).toBe("ready\nnothing\n");
  });

  it("does not let a lock inside be felt by the host", async () => {
    await using locker = await lab.engine.execStream(sandbox, {
      cmd: [`${ATTACKS}/shared`, "lock", `${shown}/program`],
    });
    expect(await textUntil(locker, (text) => text.includes("\n"))).toBe("lock\tok\n");
    const onHost = await run("flock", ["--nonblock", "--exclusive", join(shown, "program"), "true"]);
    expect(onHost.code).toBe(0);
  });

  it("does not let anybody inside write into a FIFO that a program of the host reads", async () => {
    const reader = await open(join(shown, "fifo"), "r+");
    try {
      const result = await lab.attack(sandbox, "shared", ["fifo", `${shown}/fifo`]);
      expect(outcomesOf(result).get("fifo")).not.toBe("ok");
      // As it is for everybody on the host.
      expect(outcomesOf(await lab.onHost("shared", ["fifo", join(shown, "fifo")])).get("fifo")).toBe("ok");
    } finally {
      await reader.close();
    }
  });

  it("does not lead to a socket that a service of the host opens there later", async () => {
    await mkdir(join(shown, "service"), { mode: 0o755 });
    const path = join(shown, "service", "late.sock");
    const server: Server = createServer((socket) => socket.end());
    await new Promise<void>((resolve) => server.listen(path, resolve));
    await chmod(path, 0o777);
    try {
      expect(outputOf(await lab.onHost("walk", ["sockets", shown]))).toBe(`connects ${path}\n`);
      const inside = outputOf(await lab.attack(sandbox, "walk", ["sockets", shown]));
      expect(inside).not.toContain("connects");
    } finally {
      await new Promise((resolve) => server.close(resolve));
    }
  });

  it("does not lead to a socket that was there, even when its service starts again", async () => {
    const path = join(shown, "early.sock");
    const listen = async () => {
      const server = createServer((socket) => socket.end());
      await new Promise<void>((resolve) => server.listen(path, resolve));
      await chmod(path, 0o777);
      return server;
    };
    const first = await listen();
    const id = await lab.sandbox({ image: "host" });
    try {
      await lab.engine.files.write(id, "/tmp/walk", await readFile(lab.program("walk")), { mode: 0o755 });
      const cmd = ["/tmp/walk", "sockets", shown];
      expect(outputOf(await lab.engine.exec(id, { cmd, timeout: 10 }))).not.toContain("connects");
      await new Promise((resolve) => first.close(resolve));
      const second = await listen();
      const inside = outputOf(await lab.engine.exec(id, { cmd, timeout: 10 }));
      await new Promise((resolve) => second.close(resolve));
      expect(inside).not.toContain("connects");
    } finally {
      await lab.engine.remove(id);
    }
  });
});
