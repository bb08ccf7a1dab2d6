import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import { WarrenError } from "../../../src/contracts/errors.ts";
import { silentLogger } from "../../../src/lib/log.ts";
import { createOrb } from "../../../src/runtimes/podman/orb.ts";
import { makeReady } from "../../../src/runtimes/podman/orbstack.ts";
import { openPodmanRuntime } from "../../../src/runtimes/podman/runtime.ts";
import { missingRange, RANGE_IDS } from "../../../src/runtimes/podman/subordinate-ranges.ts";
import { type OrbState, type StandInOrb, standInOrb } from "./support/orb.ts";

let orb: StandInOrb | undefined;
afterEach(() => {
  orb?.remove();
  orb = undefined;
});

const running = { name: "box", state: "running" };
/** Answers in place of programs that would change this machine. */
const ordinaryUser: OrbState["answers"] = [
  { words: ["id", "-un"], stdout: "me\n" },
  { words: ["id", "-u"], stdout: "501\n" },
];
const service: NonNullable<OrbState["answers"]>[number] = { words: ["300"] };
const ranges: OrbState["answers"] = [
  { words: ["cat", "/etc/subuid"], stdout: "other:100000:65536\nme:165536:65536\n" },
  { words: ["cat", "/etc/subgid"], stdout: "501:165536:65536\n" },
];

const ready = (state: OrbState) => {
  orb = standInOrb(state);
  return makeReady(createOrb("box", process.env), "owner1", silentLogger);
};
/** What it was asked to do, without questions. */
const deeds = () =>
  (orb as StandInOrb)
    .asked()
    .filter((line) => /^(start|create)|-u root|migrate|system service/.test(line.replaceAll("\n", " ")))
    .map((line) => line.replace(/sh -c [\s\S]* sh (?=\/)/, "sh … "));

async function failure(state: OrbState): Promise<WarrenError> {
  const error = await ready(state).catch((cause: unknown) => cause);
  expect(error).toBeInstanceOf(WarrenError);
  return error as WarrenError;
}

describe("an OrbStack machine", () => {
  it("is left as it is when all is there", async () => {
    const found = await ready({
      running: true,
      machines: [{ name: "another", state: "stopped" }, running],
      answers: [...ordinaryUser, ...ranges, service, { words: ["uname", "-m"], stdout: "aarch64\n" }],
    });
    const { dir } = orb as StandInOrb;
    expect(found).toEqual({
      user: { name: "me", uid: 501 },
      arch: "arm64",
      dir: `${dir}/.local/share/warren/owner1`,
    });
    expect(deeds()).toEqual([expect.stringMatching(/^-m box sh … \/.*\/owner1 300 20$/)]);
  });

  it("is made, with all that is missing, in this order", async () => {
    await ready({
      running: false,
      says: "not running",
      machines: [],
      answers: [
        { words: ["sh", "podman"], code: 1, times: 1 },
        { words: ["apt-get", "dnf"], stdout: "apt-get\n" },
        { words: ["apt-get"] },
        { words: ["cat", "/etc/subuid"], stdout: "other:100000:65536\n" },
        { words: ["cat", "/etc/subgid"], stdout: "third:200000:65536\n" },
        ...ordinaryUser,
        { words: ["/etc/subuid"] },
        { words: ["/etc/subgid"] },
        { words: ["migrate"] },
        service,
      ],
    });
    expect(deeds().slice(0, -1)).toEqual([
      "start",
      "create debian:bookworm box",
      "-m box -u root apt-get update",
      "-m box -u root env DEBIAN_FRONTEND=noninteractive apt-get install -y podman uidmap",
      "-m box -u root sh … /etc/subuid me:265536:65536",
      "-m box -u root sh … /etc/subgid me:265536:65536",
      "-m box podman system migrate",
    ]);
    expect((orb as StandInOrb).state().machines).toEqual([running]);
  });

  it("is started when it is stopped", async () => {
    await ready({
      running: true,
      machines: [{ name: "box", state: "stopped" }],
      answers: [...ordinaryUser, ...ranges, service],
    });
    expect(deeds()).toEqual(["start box", expect.stringContaining("300")]);
  });

  it("needs no ranges of ids where its user is root", async () => {
    await ready({
      running: true,
      machines: [running],
      answers: [{ words: ["id", "-un"], stdout: "root" }, { words: ["id", "-u"], stdout: "0" }, service],
    });
    expect((orb as StandInOrb).asked().filter((line) => line.includes("/etc/sub"))).toEqual([]);
  });

  const whole = { running: true, machines: [running] };
  const noPodman = { words: ["sh", "podman"], code: 1 };
  it.each<[string, OrbState, RegExp]>([
    [
      "OrbStack does not start",
      { running: false, machines: [], fail: { start: "no license" } },
      /started: no license/,
    ],
    ["OrbStack stays down", { running: false, staysDown: true, machines: [] }, /does not run/],
    ["no list", { ...whole, fail: { list: "broken pipe" } }, /listed: broken pipe/],
    ["no machine", { running: true, machines: [], fail: { create: "no space left" } }, /made: no space left/],
    [
      "no start",
      { running: true, machines: [{ name: "box", state: "stopped" }], fail: { "start box": "it is broken" } },
      /can't be started: it is broken/,
    ],
    [
      "no package manager",
      { ...whole, answers: [noPodman, { words: ["apt-get", "dnf"], code: 1 }] },
      /has no podman, and none of/,
    ],
    [
      "no update",
      {
        ...whole,
        answers: [noPodman, { words: ["apt-get", "dnf"], stdout: "apt-get" }],
        fail: { "-m box -u root apt-get update": "Temporary failure resolving" },
      },
      /can't be installed.*Temporary failure/,
    ],
    [
      "a name that is none",
      { ...whole, answers: [{ words: ["id", "-un"], stdout: "me:0:4294967295" }, ...(ordinaryUser ?? [])] },
      /name that can't be one/,
    ],
    [
      "another processor",
      { ...whole, answers: [...(ordinaryUser ?? []), { words: ["uname", "-m"], stdout: "riscv64" }] },
      /riscv64/,
    ],
    [
      "no ranges",
      {
        ...whole,
        answers: [
          ...(ordinaryUser ?? []),
          { words: ["cat"] },
          { words: ["/etc/subuid"], code: 1, stderr: "Read-only file system" },
        ],
      },
      /subuid can't be changed: Read-only/,
    ],
    [
      "no service",
      {
        ...whole,
        answers: [
          ...(ordinaryUser ?? []),
          ...(ranges ?? []),
          { words: ["300"], code: 1, stderr: "cannot re-exec process" },
        ],
      },
      /service can't be started.*cannot re-exec/,
    ],
  ])("says what failed, in the tool's own words: %s", async (_name, state, words) => {
    const error = await failure(state);
    expect(error.code).toBe("runtime_unavailable");
    expect(error.message).toMatch(words);
  });

  it("needs OrbStack's command, and says how to get it", async () => {
    const empty = mkdtempSync(join(tmpdir(), "worb-"));
    try {
      const nowhere = createOrb("box", { PATH: empty });
      await expect(makeReady(nowhere, "owner1", silentLogger)).rejects.toMatchObject({
        code: "runtime_unavailable",
        hint: expect.stringContaining("brew install orbstack"),
      });
    } finally {
      rmSync(empty, { recursive: true });
    }
  });

  it("needs a guest for its processor", async () => {
    const other = process.arch === "x64" ? "aarch64" : "x86_64";
    orb = standInOrb({
      ...whole,
      answers: [
        ...(ordinaryUser ?? []),
        ...(ranges ?? []),
        service,
        { words: ["uname", "-m"], stdout: other },
      ],
    });
    const stateDir = mkdtempSync(join(tmpdir(), "worbs-"));
    try {
      await expect(
        openPodmanRuntime({ stateDir, ownerId: "t1", log: silentLogger, orb: { machine: "box" } }),
      ).rejects.toMatchObject({ code: "runtime_unavailable", message: expect.stringContaining("not built") });
    } finally {
      rmSync(stateDir, { recursive: true });
    }
  });
});

describe("a range of subordinate ids", () => {
  const entry = fc.record({
    owner: fc.constantFrom("a", "b", "me", "501", "7"),
    start: fc.integer({ min: 0, max: 1_000_000 }),
    count: fc.integer({ min: 0, max: 300_000 }),
  });
  const file = fc.array(entry, { maxLength: 8 });
  const textOf = (entries: { owner: string; start: number; count: number }[]) =>
    entries.map(({ owner, start, count }) => `${owner}:${start}:${count}\n`).join("");

  it("is added once, and overlaps nobody's in either file", () => {
    fc.assert(
      fc.property(file, file, (uids, gids) => {
        const texts = [textOf(uids), textOf(gids)];
        const line = missingRange(texts[0] as string, texts, { name: "me", uid: 501 });
        const has = uids.some(({ owner, count }) => ["me", "501"].includes(owner) && count >= RANGE_IDS);
        expect(line === undefined).toBe(has);
        if (line === undefined) return;
        const [, start = 0, count = 0] = line.split(":").map(Number);
        for (const range of [...uids, ...gids]) {
          expect(
            start + count <= range.start || range.start + range.count <= start || range.count === 0,
          ).toBe(true);
        }
        expect(missingRange(texts[0] + line, texts, { name: "me", uid: 501 })).toBeUndefined();
      }),
    );
  });
});
