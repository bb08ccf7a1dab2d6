import { mkdirSync, readdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { DoctorReport } from "../../src/app/doctor.ts";
import type { Capabilities } from "../../src/contracts/runtime.ts";
import { bestCapabilities } from "../../src/runtimes/capabilities.ts";
import { openWorkspace, type Workspace } from "./workspace.ts";

let box: Workspace;
beforeAll(() => {
  box = openWorkspace({ WARREN_RUNTIME: "fake" });
});
afterAll(() => box[Symbol.asyncDispose]());

/** A PATH on which there is what the CLI and the fake runtime need, and no Podman. */
function poorPath(): string {
  const path = join(box.dir, "bin");
  mkdirSync(path, { recursive: true });
  for (const name of ["bwrap", "true"]) symlinkSync(`/usr/bin/${name}`, join(path, name));
  symlinkSync(process.execPath, join(path, "node"));
  return path;
}

it("tells of each runtime what it can do here, which is never more than what is said of it", async () => {
  const report: DoctorReport = JSON.parse(await box.ok(["doctor", "--json"]));
  expect(report.runtimes.filter((runtime) => runtime.default).map(({ runtime }) => runtime)).toEqual([
    "fake",
  ]);
  expect(report.runtimes.map(({ runtime }) => runtime)).toEqual([...Object.keys(bestCapabilities), "fake"]);
  for (const { runtime, capabilities } of report.runtimes) {
    const best = Object.entries(bestCapabilities).find(([name]) => name === runtime)?.[1];
    if (best && capabilities) expect(excess(capabilities, best), runtime).toEqual([]);
  }
  expect(report.runtimes.find(({ runtime }) => runtime === "oci")?.capabilities?.images).toContain("host");
  const lines = (await box.ok(["doctor"])).split("\n");
  expect(lines.find((line) => line.startsWith("what they can do here"))).toMatch(/ oci .*fake$/);
  expect(lines.find((line) => line.startsWith("read-only root"))).toContain("yes");
  // Looking leaves nothing that an engine would take for its own.
  expect(
    readdirSync(box.stateDir).filter((name) => name !== "fake" && /oci|podman|doctor/.test(name)),
  ).toEqual([]);
});

it("takes a runtime that is absent for a note, unless it is the default one", async () => {
  const env = { PATH: poorPath() };
  const optional = await box.warren(["doctor"], { env });
  expect(optional).toMatchObject({ code: 0, stderr: "" });
  const text = optional.stdout.toString();
  expect(text).toMatch(/runtime fake \(default\): usable/);
  expect(text).toMatch(/runtime podman: not usable\n +note .*podman/);
  expect(text).toMatch(/fix: /);
  const missed = await box.warren(["doctor"], { env: { ...env, WARREN_RUNTIME: "podman" } });
  expect(missed.code).toBe(1);
  expect(missed.stdout.toString()).toMatch(/runtime podman \(default\): not usable\n +error .*podman/);
});

/** What is in the first and not in the second. */
function excess(here: Capabilities, best: Capabilities): string[] {
  return Object.entries(here).flatMap(([name, value]) => {
    const most: unknown = best[name as keyof Capabilities];
    if (Array.isArray(value)) return value.filter((word) => !(most as unknown[]).includes(word));
    return value === true && most !== true ? [name] : [];
  });
}
