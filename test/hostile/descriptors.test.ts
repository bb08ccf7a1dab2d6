import { createHash } from "node:crypto";
import { copyFile, readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { ExecSession } from "../../src/contracts/exec.ts";
import { nativeProgram } from "../../src/lib/native.ts";
import { run } from "../../src/lib/run.ts";
import { type Canary, plantCanary } from "./support/canary.ts";
import { ATTACKS, type Lab, openLab, outcomesOf, outputOf } from "./support/lab.ts";

let lab: Lab;
let sandbox: string;
let canary: Canary;

beforeAll(async () => {
  lab = await openLab({ programs: ["fds", "climb", "overwrite", "hunter"] });
  sandbox = await lab.sandbox();
  canary = await plantCanary(join(lab.dir, "canary"));
});
afterAll(() => lab?.[Symbol.asyncDispose]());

/** Descriptors by number, as a command found them when it started. */
function parseFds(text: string): Record<string, string> {
  return Object.fromEntries(
    text
      .split("\n")
      .filter(Boolean)
      .map((line) => line.split(" ", 2) as [string, string]),
  );
}

async function readAll(path: string, id = sandbox): Promise<string> {
  const { body } = await lab.engine.files.read(id, path);
  const chunks: Uint8Array[] = [];
  for await (const chunk of body) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

describe("inherited descriptors", () => {
  const pipe = expect.stringMatching(/^pipe:/);

  it("a command has its three standard ones and no others", async () => {
    for (const user of ["root", "mallory"]) {
      const text = outputOf(await lab.attack(sandbox, "fds", [], { user }));
      expect(parseFds(text)).toEqual({ 0: "/dev/null", 1: pipe, 2: pipe });
    }
    expect(parseFds(outputOf(await lab.attack(sandbox, "fds", [], { stdin: "x" })))).toEqual({
      0: pipe,
      1: pipe,
      2: pipe,
    });
  });

  it("a command on a terminal has only its terminal", async () => {
    await using session = await lab.engine.execStream(sandbox, { cmd: [`${ATTACKS}/fds`], tty: true });
    const terminal = expect.stringMatching(/^\/dev\/pts\/\d+$/);
    expect(parseFds((await textOf(session)).replaceAll("\r", ""))).toEqual({
      0: terminal,
      1: terminal,
      2: terminal,
    });
  });

  it("the main command has its three standard ones and no others", async () => {
    const id = await lab.sandbox({ cmd: [`${ATTACKS}/fds`, "/tmp/fds"] });
    await expect.poll(() => readAll("/tmp/fds", id).catch(() => ""), { timeout: 10_000 }).not.toBe("");
    const fds = parseFds(await readAll("/tmp/fds", id));
    expect(Object.keys(fds)).toEqual(["0", "1", "2"]);
    for (const target of Object.values(fds)) expect(target).toMatch(/^(\/dev\/null$|pipe:)/);
    await lab.engine.remove(id);
  });
});

describe("a working directory that leads out (CVE-2024-21626)", () => {
  const workdirs = [
    ...Array.from({ length: 18 }, (_, i) => `/proc/self/fd/${i + 3}`),
    "/proc/self/fd/7/../../../..",
    "/proc/thread-self/fd/5",
    "/dev/fd/6",
    "/proc/1/cwd",
    "/proc/1/root/../..",
    "/proc/self/root/../..",
    "/proc/1/fd/3",
    "/proc/1/ns",
  ];

  it.each(workdirs)("as the directory of a command: %s", async (workdir) => {
    for (const user of ["root", "mallory"]) {
      const result = await lab
        .attack(sandbox, "climb", [canary.file], { workdir, user })
        .catch((e: unknown) => e);
      if (result instanceof WarrenError) continue; // there is no such directory: as it should be
      expect(result).toMatchObject({ exit_code: 0, stdout: expect.stringMatching(/^inside /) });
      expect(JSON.stringify(result)).not.toContain(canary.token);
    }
  });

  it("as the directory of a whole sandbox, its main command included", async () => {
    // One for each descriptor that launcher, runtime or guest may hold open while they start it.
    const ids = await Promise.all(
      workdirs.slice(0, 18).map((workdir) =>
        lab
          .sandbox({ workdir, cmd: [`${ATTACKS}/climb`, canary.file, "/tmp/climbed"] })
          .catch((error: unknown) => {
            expect(error).toBeInstanceOf(WarrenError);
            return undefined;
          }),
      ),
    );
    for (const id of ids.filter((id) => id !== undefined)) {
      await lab.engine.stop(id, { timeoutMs: 0 });
      await lab.engine.remove(id);
    }
    const id = await lab.sandbox({ workdir: "/proc/self/fd/5" }).catch(() => undefined);
    const result = id ? await lab.attack(id, "climb", [canary.file]).catch(() => undefined) : undefined;
    expect(result?.stdout ?? "inside /").toMatch(/^inside /);
  });

  it("leads out without the guard", async () => {
    const result = await lab.onHost("climb", ["--chroot", lab.image, canary.file], { cwd: canary.dir });
    const text = outputOf(result);
    expect(text).toMatch(/^escaped /);
    expect(text).toContain(canary.token);
  });
});

describe("the guest's program (CVE-2019-5736)", () => {
  const digest = async (path: string) =>
    createHash("sha256")
      .update(await readFile(path))
      .digest("hex");
  const guestInside = "/.warren/guest";
  let before: string;
  let shared: string;

  beforeEach(async () => {
    before = await digest(nativeProgram("warren-guest"));
    shared = await digestOfShared();
  });
  afterEach(async () => {
    expect(await digest(nativeProgram("warren-guest"))).toBe(before);
    expect(await digestOfShared()).toBe(shared);
    // It still works, and so does the next sandbox.
    outputOf(await lab.attack(sandbox, "fds"));
  });

  async function digestOfShared(): Promise<string> {
    const result = await run("find", [
      join(lab.stateDir, "oci", "shared"),
      "-type",
      "f",
      "-exec",
      "sha256sum",
      "{}",
      "+",
    ]);
    return result.stdout.toString();
  }

  it.each(["root", "mallory"])("can't be changed by %s inside, by any of its names", async (user) => {
    for (const name of [guestInside, "/proc/1/exe", `/proc/1/root${guestInside}`]) {
      const outcomes = outcomesOf(await lab.attack(sandbox, "overwrite", [name], { user }));
      for (const [attempt, outcome] of outcomes)
        expect([name, attempt, outcome]).not.toEqual([name, attempt, "ok"]);
    }
  });

  it("is changed in several ways without the guard", async () => {
    const victim = join(lab.dir, "victim");
    await copyFile(lab.program("fds"), victim);
    const outcomes = outcomesOf(await lab.onHost("overwrite", [victim]));
    for (const attempt of ["open_for_writing", "reopen_read", "reopen_path", "map_shared", "rename_over"]) {
      expect([attempt, outcomes.get(attempt)]).toEqual([attempt, "ok"]);
    }
  });

  /** What a process that watches all others, all the time, gets hold of while `work` goes on. */
  async function hunt(work: (user: string) => Promise<void>): Promise<string[]> {
    await using hunter = await lab.engine.execStream(sandbox, { cmd: [`${ATTACKS}/hunter`, guestInside] });
    const seen = textOf(hunter);
    for (let i = 0; i < 40; i++) await work(i % 2 === 0 ? "root" : "mallory");
    await hunter.signal("SIGTERM");
    const lines = (await seen).split("\n").filter(Boolean);
    expect(lines.shift()).toBe("ready");
    expect(Number(lines.shift()?.replace("looks ", ""))).toBeGreaterThan(100);
    // `fds` looks at itself.
    return lines.filter((line) => !/^descriptor \/proc\/\d+\/fd$/.test(line));
  }

  it("can't be caught in the moment in which it becomes a command", async () => {
    const caught = await hunt(async (user) => {
      await lab.attack(sandbox, "fds", [], { user });
      await lab.engine.exec(sandbox, { cmd: ["/absent"], user });
      await readAll("/etc/passwd");
    });
    expect(caught).toEqual([]);
  });

  it("run by a script as `#!/proc/self/exe`, it is one more command: nothing to write, no connection", async () => {
    await lab.engine.files.write(sandbox, "/tmp/bang", Buffer.from("#!/proc/self/exe\n"), { mode: 0o755 });
    const caught = await hunt(async (user) => {
      await lab.engine.exec(sandbox, { cmd: ["/tmp/bang", "--fd", "3"], user, timeout: 5 });
    });
    const harmless = [`opened ${guestInside}`, `opened the memory of ${guestInside}`];
    expect(caught.filter((line) => !harmless.includes(line))).toEqual([]);
  });
});

async function textOf(session: ExecSession): Promise<string> {
  let text = "";
  for await (const { data } of session.output) text += Buffer.from(data).toString();
  return text;
}
