import { readFile } from "node:fs/promises";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { SandboxApi } from "../../src/contracts/api.ts";
import type { ExecStreamRequest } from "../../src/contracts/exec.ts";
import { runBare } from "./support/bare.ts";
import { ATTACKS, type Lab, openLab, outcomesOf, outputOf } from "./support/lab.ts";

/** What docs/SECURITY.md promises, by number of linux/capability.h; written here a second time on purpose. */
const documented = {
  CAP_CHOWN: 0,
  CAP_DAC_OVERRIDE: 1,
  CAP_FOWNER: 3,
  CAP_FSETID: 4,
  CAP_KILL: 5,
  CAP_SETGID: 6,
  CAP_SETUID: 7,
  CAP_SETPCAP: 8,
  CAP_NET_BIND_SERVICE: 10,
  CAP_SYS_CHROOT: 18,
  CAP_SETFCAP: 31,
};
const mask = Object.values(documented)
  .reduce((all, bit) => all | (1n << BigInt(bit)), 0n)
  .toString(16)
  .padStart(16, "0");
const none = "0".repeat(16);
/** Of every process inside. Seccomp 2 is a filter. */
const locked = { CapInh: none, CapBnd: mask, CapAmb: none, NoNewPrivs: "1", Seccomp: "2" };
const rootInside = { ...locked, CapPrm: mask, CapEff: mask, Uid: "0\t0\t0\t0" };
const userInside = {
  ...locked,
  CapPrm: none,
  CapEff: none,
  Uid: "1000\t1000\t1000\t1000",
  Gid: "1000\t1000\t1000\t1000",
};

function statusOf(text: string): Record<string, string> {
  return Object.fromEntries([...text.matchAll(/^(\w+):\t(.*)$/gm)].map(([, name, value]) => [name, value]));
}

let lab: Lab;
let sandbox: string;

beforeAll(async () => {
  lab = await openLab({ programs: ["cat", "devices", "bomb"] });
  sandbox = await lab.sandbox();
});
afterAll(() => lab?.[Symbol.asyncDispose]());

const ownStatus = [`${ATTACKS}/cat`, "/proc/self/status"];

async function inTerminal(api: SandboxApi, request: Omit<ExecStreamRequest, "tty">): Promise<string> {
  await using session = await api.execStream(sandbox, { ...request, tty: true, timeout: 20 });
  let text = "";
  for await (const { data } of session.output) text += Buffer.from(data).toString();
  expect((await session.exit).exit_code).toBe(0);
  return text.replaceAll("\r\n", "\n");
}

it("PID 1 has the documented capabilities, no_new_privs and a seccomp filter", async () => {
  const status = statusOf(outputOf(await lab.attack(sandbox, "cat", ["/proc/1/status"])));
  expect(status).toMatchObject(rootInside);
});

it("a command as root has the documented capabilities, no_new_privs and a seccomp filter", async () => {
  expect(statusOf(outputOf(await lab.attack(sandbox, "cat", ["/proc/self/status"])))).toMatchObject(
    rootInside,
  );
});

it("a command as another user has no capability at all", async () => {
  for (const user of ["mallory", "1000", "1000:1000"]) {
    const result = await lab.attack(sandbox, "cat", ["/proc/self/status"], { user });
    expect(statusOf(outputOf(result))).toMatchObject(userInside);
  }
});

it("a command on a terminal is as locked as one without", async () => {
  expect(statusOf(await inTerminal(lab.engine, { cmd: ownStatus }))).toMatchObject(rootInside);
  expect(statusOf(await inTerminal(lab.engine, { cmd: ownStatus, user: "mallory" }))).toMatchObject(
    userInside,
  );
});

it("the main command is as locked as the others, and so is every process inside", async () => {
  const cmd = [`${ATTACKS}/bomb`, "none", "hold"];
  for (const [user, expected] of Object.entries({ root: rootInside, mallory: userInside })) {
    const id = await lab.sandbox({ cmd, user });
    const pids = (await lab.engine.files.list(id, "/proc"))
      .map(({ name }) => name)
      .filter((n) => /^\d+$/.test(n));
    const found: Record<string, string>[] = [];
    for (const pid of pids) {
      const result = await lab.attack(id, "cat", [`/proc/${pid}/status`]);
      // The handler of the listing itself has ended since.
      if (result.exit_code === 0) found.push(statusOf(result.stdout));
    }
    expect(found.length).toBeGreaterThanOrEqual(3);
    for (const status of found) expect(status).toMatchObject(locked);
    expect(found.find(({ Name }) => Name === "bomb")).toMatchObject(expected);
    await lab.engine.remove(id);
  }
});

it("without the guard a container has every capability, may gain privileges and has no filter", async () => {
  const bare = await runBare(lab.dir, lab.program("cat"), ["/proc/self/status"]);
  const status = statusOf(outputOf(bare));
  expect(status).toMatchObject({ NoNewPrivs: "0", Seccomp: "0" });
  expect(BigInt(`0x${status.CapEff}`) & ~BigInt(`0x${mask}`)).not.toBe(0n);
});

it("root inside is nobody outside: its ids lie in a range of its own", async () => {
  const other = await lab.sandbox();
  const mapOf = async (id: string) =>
    outputOf(await lab.attack(id, "cat", ["/proc/self/uid_map"]))
      .trim()
      .split(/\s+/)
      .map(Number);
  const [first, second] = [await mapOf(sandbox), await mapOf(other)];
  expect(first).toEqual([0, expect.any(Number), 65_536]);
  expect(first[1]).toBeGreaterThanOrEqual(65_536);
  expect(Math.abs((first[1] ?? 0) - (second[1] ?? 0))).toBeGreaterThanOrEqual(65_536);
  await lab.engine.remove(other);
});

it("a set-user-id program gives a user inside nothing", async () => {
  const program = "/tmp/set-user-id";
  await lab.engine.files.write(sandbox, program, await readFile(lab.program("cat")), { mode: 0o755 });
  await lab.engine.files.chmod(sandbox, program, 0o4755);
  expect((await lab.engine.files.stat(sandbox, program)).permissions).toBe(0o4755);
  const result = await lab.engine.exec(sandbox, {
    cmd: [program, "/proc/self/status"],
    user: "mallory",
    timeout: 20,
  });
  expect(statusOf(outputOf(result))).toMatchObject(userInside);
  const bare = await runBare(lab.dir, lab.program("cat"), ["/proc/self/status"], {
    user: 1000,
    mode: 0o4755,
  });
  expect(statusOf(outputOf(bare)).Uid).toBe("1000\t0\t0\t0");
});

/** Outcomes of the attempts that `devices` makes on its terminal, inside as each user and without the guard. */
async function terminalAttempts() {
  const cmd = [`${ATTACKS}/devices`, "terminal"];
  const parse = (text: string) =>
    new Map(text.split("\n").map((line) => line.split("\t") as [string, string]));
  return {
    inside: [
      parse(await inTerminal(lab.engine, { cmd })),
      parse(await inTerminal(lab.engine, { cmd, user: "mallory" })),
    ],
    bare: outcomesOf(await runBare(lab.dir, lab.program("devices"), ["own-terminal"])),
  };
}

it("TIOCSTI can't put input into a terminal that others read, which works without the guard", async () => {
  const { inside, bare } = await terminalAttempts();
  for (const attempt of ["tiocsti", "tiocsti_with_high_bits"]) {
    // EPERM from a filter, EIO from a kernel with dev.tty.legacy_tiocsti=0.
    for (const outcomes of inside) expect(["E1", "E5"]).toContain(outcomes.get(attempt));
    expect(bare.get(attempt)).toBe("ok");
  }
});

it("TIOCLINUX and TIOCCONS reach no console", async () => {
  const { inside, bare } = await terminalAttempts();
  for (const outcomes of inside) {
    for (const attempt of ["tioclinux_paste", "tioclinux_with_high_bits"]) {
      // A pseudo terminal has no TIOCLINUX (ENOTTY), with or without a guard.
      expect(["E1", "E25"]).toContain(outcomes.get(attempt));
    }
    expect(outcomes.get("tioccons")).toBe("E1");
  }
  expect(bare.get("tioccons")).toBe("ok");
});
