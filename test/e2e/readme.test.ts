import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { eventually } from "../../src/testing/wait.ts";

const stateDir = mkdtempSync(join(tmpdir(), "wreadme-"));
const env = { ...process.env, WARREN_STATE_DIR: stateDir, NO_COLOR: "1" };

/** The README's console transcript: commands with what they printed. */
function transcript(): { command: string; output: string }[] {
  const text = readFileSync("README.md", "utf8");
  const block = /```console\n([\s\S]*?)```/.exec(text)?.[1] ?? "";
  return block
    .split(/^\$ /m)
    .slice(1)
    .map((part) => {
      const [command = "", ...output] = part.split("\n");
      return { command, output: output.join("\n") };
    });
}

/** What differs from run to run: ids, ages, and the host's Python. */
const general = (text: string): string =>
  text
    .replace(/\b[a-z][a-z2-7]{15}\b/g, "<id>")
    .replace(/^[a-z][a-z2-7]{7} +/gm, "<id> ")
    .replace(/Python 3\.[\d.]+/g, "Python 3")
    .replace(/running +\S+ +never/g, "running <age> never");

describe("the README", () => {
  afterAll(async () => {
    const file = join(stateDir, "engine.pid");
    if (existsSync(file)) {
      const pid = Number(readFileSync(file, "utf8").trim());
      process.kill(pid, "SIGTERM");
      await eventually("the end of the engine", async () => !existsSync(`/proc/${pid}`));
    }
    rmSync(stateDir, { recursive: true });
  });

  it("shows what really happens", { timeout: 120_000 }, () => {
    const steps = transcript();
    expect(steps.length).toBeGreaterThan(5);
    writeFileSync("/tmp/answer.py", "print(6 * 7)\n");
    try {
      for (const { command, output } of steps) {
        // The commands are the README's own text, run as its reader would.
        const ran = spawnSync("sh", ["-c", command.replace(/^npx warren /, "dist/cli/warren ")], {
          env,
          encoding: "utf8",
        });
        expect(general(ran.stdout + ran.stderr), command).toBe(general(output));
      }
    } finally {
      rmSync("/tmp/answer.py");
    }
  });

  it("names a quickstart that works, twice, and leaves no sandbox behind", { timeout: 300_000 }, () => {
    for (const _ of [1, 2]) {
      const said = execFileSync("bash", [join("scripts", "quickstart.sh")], { env, encoding: "utf8" });
      expect(said).toContain("hello from inside: I am root on hello-");
    }
    const left = execFileSync(process.execPath, ["dist/cli/main.js", "ls", "--json"], {
      env,
      encoding: "utf8",
    });
    expect(JSON.parse(left)).toEqual([]);
  });
});
