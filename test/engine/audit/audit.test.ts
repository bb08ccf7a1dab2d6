import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  existsSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openAudit } from "../../../src/engine/audit/audit.ts";
import { verifyAudit } from "../../../src/engine/audit/chain.ts";
import { systemClock } from "../../../src/engine/clock.ts";
import { silentLogger } from "../../../src/lib/log.ts";
import { stateDir, testEngine } from "../support/engine.ts";
import { tempDir } from "../support/temp-dir.ts";

const open = (dir: string, maxBytes?: number) =>
  openAudit({
    dir,
    clock: systemClock,
    log: silentLogger,
    ...(maxBytes === undefined ? {} : { maxBytes }),
  });

const denial = (host: string) => ({
  type: "decision" as const,
  sandbox: "aaaabbbbccccdddd",
  host,
  port: 443,
  allowed: false,
  cause: "no_rule" as const,
  reason: `no rule allows ${host}:443`,
});

const fileOf = (dir: string) => join(dir, "audit.jsonl");
const linesOf = (dir: string) => readFileSync(fileOf(dir), "utf8").split("\n").slice(0, -1);

function written(dir: string, ...hosts: string[]): void {
  const audit = open(dir);
  for (const host of hosts) audit.write(denial(host));
  audit.close();
}

describe("the audit log", () => {
  it("is one complete line of JSON for each record, closed to others, and goes on after a restart", async () => {
    using dir = tempDir();
    written(dir.path, "a.test", "b.test");
    written(dir.path, "c.test");
    const records = linesOf(dir.path).map((line) => JSON.parse(line));
    expect(records).toMatchObject([
      { seq: 1, prev: "0".repeat(64), type: "decision", host: "a.test" },
      { seq: 2, host: "b.test" },
      { seq: 3, host: "c.test" },
    ]);
    expect(statSync(fileOf(dir.path)).mode & 0o777).toBe(0o600);
    expect(await verifyAudit(dir.path)).toEqual({ records: 3 });
  });

  it("stays one line, of ASCII, whatever a sandbox says", async () => {
    using dir = tempDir();
    const evil = 'a\n{"seq":9}\r\u001b[2J\u2028\u202e"\\\u0000ü\ud800';
    written(dir.path, evil, "b.test");
    const text = readFileSync(fileOf(dir.path), "latin1");
    expect(text).toMatch(/^[\x20-\x7e\n]*$/);
    const [first, second, ...more] = linesOf(dir.path);
    expect(more).toEqual([]);
    expect(JSON.parse(first ?? "").host).toBe(evil);
    expect(JSON.parse(second ?? "").host).toBe("b.test");
    expect(await verifyAudit(dir.path)).toEqual({ records: 2 });
  });

  it.each<[string, (lines: string[]) => string[], RegExp]>([
    ["changed", (lines) => lines.map((line) => line.replace("b.test", "x.test")), /line 3 does not follow/],
    ["taken out", (lines) => lines.toSpliced(1, 1), /line 2 does not follow/],
    ["put in", (lines) => lines.toSpliced(1, 0, lines[0] ?? ""), /line 2 does not follow/],
    ["moved", (lines) => [lines[1] ?? "", lines[0] ?? "", lines[2] ?? ""], /line 2 does not follow/],
    ["made unreadable", (lines) => lines.with(1, "{"), /line 2 is no record/],
  ])("shows that a line was %s", async (_what, tamper, problem) => {
    using dir = tempDir();
    written(dir.path, "a.test", "b.test", "c.test");
    const lines = linesOf(dir.path);
    writeFileSync(fileOf(dir.path), `${tamper(lines).join("\n")}\n`);
    expect((await verifyAudit(dir.path)).problem).toMatch(problem);
  });

  it("is whole again after an engine that was killed in the middle of a line", async () => {
    using dir = tempDir();
    written(dir.path, "a.test", "b.test");
    truncateSync(fileOf(dir.path), statSync(fileOf(dir.path)).size - 10);
    expect((await verifyAudit(dir.path)).problem).toMatch(/line 2/);
    written(dir.path, "c.test");
    expect(linesOf(dir.path).map((line) => JSON.parse(line))).toMatchObject([
      { seq: 1, host: "a.test" },
      { seq: 2, type: "recovered" },
      { seq: 3, host: "c.test" },
    ]);
    expect(await verifyAudit(dir.path)).toEqual({ records: 3 });
  });

  it("is bounded by rotation, with one chain through all its files, of an engine killed between two of them too", async () => {
    using dir = tempDir();
    const audit = open(dir.path, 2_000);
    for (let i = 0; i < 100; i++) audit.write(denial(`${i}.test`));
    audit.close();
    for (const name of ["audit.1.jsonl", "audit.4.jsonl"]) {
      expect(statSync(join(dir.path, name)).size).toBeLessThanOrEqual(2_000);
    }
    expect(existsSync(join(dir.path, "audit.5.jsonl"))).toBe(false);
    const { records, problem } = await verifyAudit(dir.path);
    expect(problem).toBeUndefined();
    expect(records).toBeLessThan(100);
    execFileSync("mv", [fileOf(dir.path), join(dir.path, "audit.1.jsonl")]);
    written(dir.path, "after.test");
    expect(linesOf(dir.path).map((line) => JSON.parse(line))).toMatchObject([
      { seq: 101, host: "after.test" },
    ]);
  });

  it("counts what a full disk kept it from writing, leaves no half line, and says so once there is room", async () => {
    using dir = tempDir();
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "tmpfs", dir.path]);
    try {
      const audit = open(dir.path);
      audit.write(denial("a.test"));
      for (let i = 0; i < 1000; i++) audit.write(denial(`${i}.${"x".repeat(200)}.test`));
      expect(await verifyAudit(dir.path)).not.toHaveProperty("problem");
      const fitted = linesOf(dir.path).length;
      expect(fitted).toBeLessThan(1000);
      execFileSync("mount", ["-o", "remount,size=1m", dir.path]);
      audit.write(denial("b.test"));
      audit.close();
      expect(
        linesOf(dir.path)
          .slice(fitted)
          .map((line) => JSON.parse(line)),
      ).toMatchObject([{ type: "lost", count: 1001 - fitted }, { host: "b.test" }]);
      expect(await verifyAudit(dir.path)).toEqual({ records: fitted + 2 });
    } finally {
      execFileSync("umount", [dir.path]);
    }
  });

  it("follows no link, and cuts nothing off a file that is not its own", () => {
    using dir = tempDir();
    using other = tempDir();
    const victim = join(other.path, "victim");
    writeFileSync(victim, "precious");
    symlinkSync(victim, fileOf(dir.path));
    expect(() => open(dir.path)).toThrow(/ELOOP/);
    expect(readFileSync(victim, "utf8")).toBe("precious");
    using third = tempDir();
    appendFileSync(fileOf(third.path), "y".repeat(5_000_000));
    written(third.path, "a.test");
    expect(statSync(fileOf(third.path)).size).toBeGreaterThan(5_000_000);
  });
});

it("says who has given a sandbox which rules, and what they decided", async () => {
  const dir = stateDir();
  {
    await using opened = await testEngine(dir.path);
    const { engine } = opened;
    const by = { via: "tcp", client: "cli", address: "127.0.0.1", key: "abcdefgh" } as const;
    await engine.create({}); // without a network there is nothing to say
    const { id } = await engine.create({ network: { allow: ["a.test"] } }, { by });
    await engine.network.change(id, { deny: ["b.test"] }, { by });
    await engine.network.set(id, { allow: ["c.test"] }, { by: { via: "socket" } });
    expect(linesOf(dir.path).map((line) => JSON.parse(line))).toMatchObject([
      { type: "policy", action: "create", sandbox: id, by, mode: "filtered", rules: { allow: ["a.test"] } },
      { type: "policy", action: "change", by, rules: { allow: ["a.test"], deny: ["b.test"] } },
      { type: "policy", action: "set", by: { via: "socket" }, rules: { allow: ["c.test"] } },
    ]);
  }
  expect(await verifyAudit(dir.path)).toEqual({ records: 3 });
});
