import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { mainFile, openWorkspace, type Workspace } from "../cli/workspace.ts";
import { allPids, claimsOf, commandOf } from "./support/host.ts";

/** Longer than any engine needs on a busy machine; nothing may hang. */
const TIMEOUT_MS = 60_000;

interface Server {
  child: ChildProcess;
  line: Promise<{ url: string; owns_engine: boolean }>;
  exit: Promise<number | null>;
}

function serve(box: Workspace): Server {
  const child = spawn(process.execPath, [mainFile, "serve", "--port", "0", "--json"], {
    env: box.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exit = new Promise<number | null>((resolve) => child.once("exit", resolve));
  let said = "";
  child.stderr.on("data", (text: Buffer) => {
    said += text.toString();
  });
  const line = new Promise<{ url: string; owns_engine: boolean }>((resolve, reject) => {
    child.stdout.once("data", (text: Buffer) => resolve(JSON.parse(text.toString())));
    void exit.then((code) => reject(new Error(`the server ended with ${code}: ${said}`)));
  });
  line.catch(() => {}); // whoever waits for it is told
  return { child, line, exit };
}

describe.each([2, 10])("%i engines at the same instant on one state directory", (count) => {
  it("are one engine, and servers in front of it", { timeout: TIMEOUT_MS * 2 }, async () => {
    await using box = openWorkspace({ WARREN_RUNTIME: count === 2 ? "oci" : "fake" });
    const servers = Array.from({ length: count }, () => serve(box));
    try {
      const lines = await Promise.all(servers.map(({ line }) => line));
      expect(lines.filter((line) => line.owns_engine)).toHaveLength(1);
      const healths = lines.map(async ({ url }) => (await fetch(`${url}/api/v1/health`)).json());
      for (const health of await Promise.all(healths)) expect(health).toMatchObject({ status: "ok" });
    } finally {
      for (const { child } of servers) child.kill("SIGTERM");
    }
    expect(await Promise.all(servers.map(({ exit }) => exit))).toEqual(servers.map(() => 0));
    expect(claimsOf(box.stateDir)).toEqual([]);
  });

  it("are one engine when commands start them", { timeout: TIMEOUT_MS * 2 }, async () => {
    await using box = openWorkspace();
    const names = Array.from({ length: count }, (_, i) => `box${i}`);
    await Promise.all(names.map((name) => box.ok(["create", "--name", name])));
    const listed = JSON.parse(await box.ok(["ls", "--json"])) as { name: string }[];
    expect(listed.map(({ name }) => name).sort()).toEqual(names.sort());
    // Whoever came second may be just going.
    const engines = () =>
      allPids().filter((pid) => commandOf(pid).includes(`serve --state-dir ${box.stateDir}`));
    await expect.poll(engines).toEqual([box.enginePid()]);
  });
});

it("an engine leaves alone what another one on its state directory is doing", {
  timeout: TIMEOUT_MS,
}, async () => {
  await using box = openWorkspace({ WARREN_RUNTIME: "oci" });
  const first = serve(box);
  try {
    await first.line;
    await box.ok(["create", "--name", "one"]);
    // What it would take for the left of an engine that is gone: an image half fetched.
    const half = join(box.stateDir, "oci/images/tar/.new-half");
    mkdirSync(half, { recursive: true });
    const second = serve(box);
    expect((await second.line).owns_engine).toBe(false);
    await box.ok(["doctor"]);
    expect(existsSync(half)).toBe(true);
    expect(claimsOf(box.stateDir)).toHaveLength(1);
    second.child.kill("SIGTERM");
    await second.exit;
    await box.ok(["rm", "one"]);
    expect(readFileSync(join(box.stateDir, "engine.pid"), "utf8")).toBe(`${first.child.pid}\n`);
  } finally {
    first.child.kill("SIGTERM");
    await first.exit;
  }
});
