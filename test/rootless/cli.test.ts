import { execFileSync, spawnSync } from "node:child_process";
import {
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { eventually } from "../../src/testing/wait.ts";
import { makeUser, prepareCgroups, processesOf, statusOf, type TestUser } from "./support/user.ts";

const user = makeUser();
afterAll(() => user[Symbol.dispose]());

const warren = (...args: string[]) => user.run([resolve("dist/cli/warren"), ...args]);

async function ok(...args: string[]): Promise<string> {
  const result = await warren(...args);
  expect(result.code, result.stderr).toBe(0);
  return result.stdout;
}

const stateDir = join(user.home, ".local/state/warren");
const enginePid = () => Number(readFileSync(join(stateDir, "engine.pid"), "utf8"));

async function endEngine(signal: NodeJS.Signals): Promise<void> {
  const pid = enginePid();
  process.kill(pid, signal);
  await eventually("the end of the engine", () => statusOf(pid) === "" || /^State:\s+Z/m.test(statusOf(pid)));
}

describe("the command line of an ordinary user", () => {
  afterEach(async () => {
    if (!existsSync(join(stateDir, "engine.pid"))) return;
    const ids = (await ok("ls", "--all", "--quiet").catch(() => "")).split("\n").filter(Boolean);
    for (const id of ids) await warren("rm", id);
    await endEngine("SIGTERM");
  });

  it("creates, runs, copies, lists and removes, and leaves nothing", async () => {
    await ok("create", "--unlimited", "--name", "box");
    expect(await ok("exec", "box", "--", "sh", "-c", "id -u; echo hello > /root/note")).toBe("0\n");
    await ok("cp", "package.json", "box:/root/");
    expect(await ok("exec", "box", "--", "cat", "/root/package.json")).toBe(
      readFileSync("package.json", "utf8"),
    );
    await ok("cp", "box:/root/note", join(user.home, "note"));
    expect(readFileSync(join(user.home, "note"), "utf8")).toBe("hello\n");
    expect(await ok("ls")).toContain("running");
    expect(processesOf(user.firstSubordinate, 65_536).length).toBeGreaterThan(0);
    await ok("rm", "box");
    expect(processesOf(user.firstSubordinate, 65_536)).toEqual([]);
    expect(readdirSync(join(stateDir, "oci/sandboxes"))).toEqual([]);
    await endEngine("SIGTERM");
    await eventually("no process of the user", () => processesOf(user.uid).length === 0);
    for (const mount of readFileSync("/proc/self/mountinfo", "utf8").split("\n")) {
      expect(mount).not.toContain(user.home);
    }
  });

  it("has root inside be the first subordinate id, in no group, whom the user's own files are closed to", async () => {
    await ok("create", "--unlimited", "--name", "box");
    const [id] = readdirSync(join(stateDir, "oci/sandboxes")) as [string];
    const guest = readFileSync(join(stateDir, "oci/sandboxes", id, "guest.pid"), "utf8").split(" ")[0];
    const ids = Array(4).fill(user.firstSubordinate).join("\t");
    const status = statusOf(Number(guest));
    expect(status).toMatch(new RegExp(`^Uid:\t${ids}$`, "m"));
    expect(status).toMatch(new RegExp(`^Gid:\t${ids}$`, "m"));
    expect(status).toMatch(/^Groups:\s*$/m);
    // No id inside is the user's.
    const map = await ok("exec", "box", "--", "cat", "/proc/self/uid_map");
    expect(map.trim().split(/\s+/)).toEqual(["0", "1", "65536"]);

    // What an escape would be on the host, and what it would have to be.
    const secret = join(user.home, "tmp/secret");
    writeFileSync(secret, "mine", { mode: 0o600 });
    execFileSync("chown", [String(user.uid), secret]);
    const readAs = (uid: number) =>
      spawnSync("setpriv", ["--reuid", `${uid}`, "--regid", `${uid}`, "--clear-groups", "cat", secret], {
        encoding: "utf8",
      });
    expect(readAs(user.firstSubordinate)).toMatchObject({ stdout: "", status: 1 });
    expect(readAs(user.uid)).toMatchObject({ stdout: "mine", status: 0 });
  });

  it("finds its sandboxes again after the engine was killed, and can end them", async () => {
    await ok("create", "--unlimited", "--name", "box", "--", "sleep", "600");
    await endEngine("SIGKILL");
    expect(processesOf(user.firstSubordinate, 65_536).length).toBeGreaterThan(0);
    expect(await ok("ls")).toContain("running");
    expect(await ok("exec", "box", "--", "echo", "again")).toBe("again\n");
    await ok("rm", "box");
    expect(processesOf(user.firstSubordinate, 65_536)).toEqual([]);
  });

  it("refuses limits that nothing enforces, the engine's own too, and says what helps", async () => {
    const prepare = `sudo npx warren doctor --prepare-cgroups ${user.name}`;
    for (const limit of [[], ["--memory", "64m"], ["--unlimited", "--pids", "100"]]) {
      const refused = await warren("create", "--name", "box", ...limit);
      expect(refused.code).not.toBe(0);
      expect(refused.stderr).toContain(`${user.name} has no cgroup here`);
      expect(refused.stderr).toContain(prepare);
    }
    expect((await warren("create", "--name", "box")).stderr).toContain("--unlimited");
    expect(await ok("ls")).not.toContain("box");
    expect(await ok("doctor")).toContain(`fix: ${prepare}`);
    expect(readdirSync(stateDir).filter((name) => name.startsWith("doctor-"))).toEqual([]);
  });

  it("limits what root has prepared cgroups for", async () => {
    using _ = await prepareCgroups(user);
    expect(await ok("doctor")).toMatch(/ok +cgroup v\d limits memory, cpu, pids/);
    await ok("create", "--name", "box", "--memory", "64m", "--cpus", "0.5", "--pids", "100");
    const hog = await warren("exec", "box", "--", "perl", "-e", '$x = "x" x (200 * 1024 * 1024)');
    expect(hog.code).toBe(137);
    expect(await ok("exec", "box", "--", "echo", "fine")).toBe("fine\n");
    await ok("pause", "box");
    await ok("resume", "box");
    await ok("rm", "box");
    await endEngine("SIGTERM");
  });
});

const isV2 = !existsSync("/sys/fs/cgroup/memory");

describe("an engine that is a unit with a group delegated to it", () => {
  const where = isV2 ? "" : " [not possible here: cgroup v2]";

  it.skipIf(!isV2)(`limits what it starts in that group${where}`, async () => {
    using user = makeUser();
    using unit = delegatedUnit(user.uid);
    const cli = [process.execPath, "dist/cli/main.js"];
    const serving = user.run([...cli, "serve", "--port", "0"], { group: unit.procs, timeoutMs: 400_000 });
    const pidFile = join(user.home, ".local/state/warren/engine.pid");
    await eventually("the engine", () => existsSync(pidFile), 100_000);
    const warren = async (...argv: string[]) => await user.run([...cli, ...argv], { group: "none" });
    try {
      const made = await warren(
        "create",
        "--name",
        "box",
        "--memory",
        "64m",
        "--cpus",
        "0.5",
        "--pids",
        "100",
      );
      expect(made, made.stderr).toMatchObject({ code: 0 });
      const read = (file: string) => readFileSync(join(unit.dir, file), "utf8").trim();
      const [owner] = readdirSync(unit.dir).filter((name) => name.startsWith("warren-"));
      const group = join(owner ?? "", made.stdout.trim());
      expect(read(join(group, "memory.max"))).toBe(String(64 * 1024 ** 2));
      expect(read(join(group, "payload/pids.max"))).toBe("99");
      expect(read(join(group, "payload/limited/cpu.max"))).toBe("50000 100000");
      expect(await warren("exec", "box", "--", "echo", "fine")).toMatchObject({ stdout: "fine\n" });
      expect(await warren("rm", "box")).toMatchObject({ code: 0 });
    } finally {
      process.kill(Number(readFileSync(pidFile, "utf8")), "SIGTERM");
      expect((await serving).code).toBe(0);
    }
  });
});

/** As systemd makes for a unit with `Delegate=yes`: the directory and these files are the user's. */
function delegatedUnit(uid: number): Disposable & { dir: string; procs: string } {
  const dir = `/sys/fs/cgroup/warren-test-unit-${uid}`;
  writeFileSync("/sys/fs/cgroup/cgroup.subtree_control", "+memory +cpu +pids");
  mkdirSync(dir);
  for (const name of ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]) {
    chownSync(join(dir, name), uid, -1);
  }
  return {
    dir,
    procs: join(dir, "cgroup.procs"),
    [Symbol.dispose]() {
      if (existsSync(join(dir, "engine"))) rmdirSync(join(dir, "engine"));
      rmdirSync(dir);
    },
  };
}

describe("doctor", () => {
  let poor: TestUser | undefined;
  afterEach(() => poor?.[Symbol.dispose]());

  it("names the ids that a user lacks, with the commands that give them", async () => {
    poor = makeUser({ subordinates: 0 });
    const report = await poor.run([process.execPath, "dist/cli/main.js", "doctor"]);
    expect(report.code).toBe(1);
    for (const kind of ["uid", "gid"]) {
      expect(report.stdout).toContain(`/etc/sub${kind} gives user ${poor.name} none of the 65536 ids`);
      expect(report.stdout).toMatch(new RegExp(`fix: sudo usermod --add-sub${kind}s \\d+-\\d+ ${poor.name}`));
    }
    const refused = await poor.run([process.execPath, "dist/cli/main.js", "create", "--unlimited"]);
    expect(refused.code).not.toBe(0);
    expect(refused.stderr).toContain("usermod --add-subuids");
    process.kill(Number(readFileSync(join(poor.home, ".local/state/warren/engine.pid"), "utf8")), "SIGTERM");
    // Podman keeps a process for each user who has ever asked it anything.
    const ours = (pid: number) => !readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("podman");
    const { uid } = poor;
    await eventually("no process of the user", () => processesOf(uid).filter(ours).length === 0);
  });
});
