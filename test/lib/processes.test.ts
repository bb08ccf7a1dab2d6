import { spawn } from "node:child_process";
import { once } from "node:events";
import { expect, it } from "vitest";
import { isAlive, readProcess, signalProcess, waitForEnd } from "../../src/lib/processes.ts";

it("tells a process from a later one with its pid", async () => {
  const child = spawn("sleep", ["600"], { argv0: "odd ) name (x" });
  await once(child, "spawn");
  const pid = child.pid ?? 0;
  const found = readProcess(pid);
  expect(found).toMatchObject({ pid, parent: process.pid });
  const identity = { pid, startTime: found?.startTime ?? 0 };
  expect(isAlive(identity)).toBe(true);
  const other = { pid, startTime: identity.startTime + 1 };
  expect(isAlive(other)).toBe(false);
  expect(signalProcess(other, "SIGKILL")).toBe(false);
  expect(isAlive(identity)).toBe(true);
  expect(await waitForEnd(identity, 50)).toBe(false);
  expect(signalProcess(identity, "SIGKILL")).toBe(true);
  expect(await waitForEnd(identity, 10_000)).toBe(true);
  expect(signalProcess(identity, "SIGKILL")).toBe(false);
});

it("counts a process that nobody has waited for as ended", async () => {
  // The shell's child ends when another program has taken the shell's place, which never waits for it.
  const script = '(until grep -qx sleep "/proc/$$/comm"; do sleep 0.01; done) & echo $!; exec sleep 600';
  const parent = spawn("sh", ["-c", script], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = (await once(parent.stdout, "data")) as [Buffer];
  const pid = Number(line.toString());
  await expect.poll(() => readProcess(pid)?.state).toBe("Z");
  expect(isAlive({ pid, startTime: readProcess(pid)?.startTime ?? 0 })).toBe(false);
  parent.kill("SIGKILL");
  await once(parent, "exit");
});

it("knows no process where there is none", () => {
  expect(readProcess(0)).toBeUndefined();
  expect(isAlive({ pid: 2 ** 30, startTime: 1 })).toBe(false);
});
