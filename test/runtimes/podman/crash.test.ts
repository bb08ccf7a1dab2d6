import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { SandboxApi } from "../../../src/contracts/api.ts";
import type { Step } from "../../../src/contracts/steps.ts";
import { eventually } from "../../../src/testing/wait.ts";
import {
  buildEngine,
  cgroupOf,
  type EngineProcess,
  membersOf,
  type Point,
  removeCgroup,
  startEngine,
} from "../../crash/support/engine-process.ts";
import { at } from "../../crash/support/matrix.ts";
import { commandLines } from "./support/open.ts";
import { makeStorage, type TestStorage, testImage } from "./support/storage.ts";

const TIMEOUT_MS = 240_000;

let storage: TestStorage;
let program: string;
beforeAll(async () => {
  storage = makeStorage();
  program = await buildEngine();
});
afterAll(() => storage.remove());

/** Engines that come one after the other on one state directory. */
class Lane implements AsyncDisposable {
  readonly dir = mkdtempSync("/tmp/wpcrash-");
  readonly stateDir = join(this.dir, "state");
  readonly group = cgroupOf(`warren-test-${randomBytes(5).toString("hex")}`);

  readonly #engines: EngineProcess[] = [];

  constructor() {
    mkdirSync(this.stateDir, { mode: 0o700 });
  }

  start(point?: Point): EngineProcess {
    const engine = startEngine(program, {
      config: {
        stateDir: this.stateDir,
        apiKeys: [],
        http2: false,
        allowedOrigins: [],
        allowBinds: false,
        allowHostNetwork: false,
        publishAddresses: [],
        runtime: "podman",
        runtimes: ["podman"],
        docker: {},
        strict: false,
        unlimited: false,
        logLevel: "info",
      },
      engine: {},
      group: this.group,
      point,
    });
    this.#engines.push(engine);
    return engine;
  }

  #listed(): { id: string; state: string; name: string }[] {
    const all = JSON.parse(storage.podman("ps", "--all", "--external", "--format=json")) as {
      Labels?: Record<string, string>;
      State: string;
      Names: string[];
    }[];
    return all.map(({ Labels, State, Names }) => ({
      id: Labels?.["warren.id"] ?? "",
      state: State,
      name: Names[0] ?? "",
    }));
  }

  /** State of each container of ours, by its sandbox. */
  containers(): Map<string, string> {
    return new Map(this.#listed().map(({ id, state }) => [id, state]));
  }

  /** Names of images that a snapshot has or has had. */
  snapshotImages(): string[] {
    const names = storage.podman("images", "--format={{.Repository}}:{{.Tag}}").trim().split("\n");
    return names.filter((name) => name.includes("/snapshot"));
  }

  async expectNothing(): Promise<void> {
    expect(this.containers()).toEqual(new Map());
    expect(this.snapshotImages()).toEqual([]);
    expect(readdirSync(join(this.stateDir, "podman/sandboxes"))).toEqual([]);
    await expect.poll(() => commandLines().filter((line) => line.includes(this.stateDir))).toEqual([]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const engine of this.#engines) {
      if (engine.isAlive()) engine.kill("SIGKILL");
      await engine.ended;
    }
    // Of a test that failed: a service, and what runs by it.
    for (const { name } of this.#listed()) storage.podman("rm", "--force", "--time=0", name);
    for (const pid of membersOf(this.group)) process.kill(pid, "SIGKILL");
    await eventually("the group to be empty", () => membersOf(this.group).length === 0);
    removeCgroup(this.group);
    rmSync(this.dir, { recursive: true });
  }
}

/** What reaches every step of the driver. `done` is told of what was acknowledged. */
async function life(api: SandboxApi, done: (what: string) => void): Promise<void> {
  const { id } = await api.create({
    name: "main",
    image: testImage,
    cmd: ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"],
    timeout: -1,
  });
  done("created");
  await api.pause(id);
  await api.resume(id);
  await api.update(id, { memory: 256 << 20, memory_high: 128 << 20 });
  done("limited");
  await api.stop(id, { timeoutMs: 5000 });
  await api.start(id);
  await api.stop(id, { timeoutMs: 0 });
  done("stopped");
  await api.remove(id);
  done("removed");
}

/** What reaches the steps of snapshots. */
async function keeping(api: SandboxApi, done: (what: string) => void): Promise<void> {
  const { id } = await api.create({ name: "main", image: testImage, timeout: -1 });
  done("created");
  const { id: snapshot } = await api.snapshots.create(id);
  done("snapshotted");
  await api.snapshots.remove(snapshot);
}

const ofSnapshots: readonly Step[] = [
  "container.held",
  "container.committed",
  "container.kept",
  "container.snapshotted",
  "container.snapshot-removed",
];

describe("an engine that is killed while it works with Podman", () => {
  it.each(at("containers"))("at %s", { timeout: TIMEOUT_MS }, async (step: Step) => {
    await using lane = new Lane();
    const said = new Set<string>();
    const opens = step === "container.swept";
    const first = lane.start(opens ? { step, nth: 1 } : undefined);
    if (!opens) {
      await first.ready;
      await first.arm({ step, nth: 1 });
      const work = ofSnapshots.includes(step) ? keeping : life;
      await expect(work(first.api, (what) => said.add(what))).rejects.toMatchObject({
        code: "engine_unavailable",
      });
    }
    expect((await first.ended).signal).toBe("SIGKILL");

    const next = lane.start();
    await next.ready;
    const sandboxes = await next.api.list();
    const containers = lane.containers();
    expect(await next.api.snapshots.list()).toEqual([]);
    expect(lane.snapshotImages()).toEqual([]);
    // Both ways: each record is of something, and nothing is of no record.
    expect([...containers.keys()]).toEqual(sandboxes.map(({ id }) => id));
    if (said.has("created") && step !== "container.removed" && step !== "container.removed-directory") {
      expect(sandboxes).toHaveLength(1);
    }
    for (const { id, status } of sandboxes) {
      const expected = {
        running: ["running"],
        paused: ["paused"],
        stopped: ["exited", "created", "stopped"],
      };
      expect(Object.keys(expected)).toContain(status);
      expect(expected[status as keyof typeof expected]).toContain(containers.get(id));
      if (status === "paused") await next.api.resume(id);
      if (status === "stopped") await next.api.start(id);
      expect(await next.api.exec(id, { cmd: ["echo", "fine"] })).toMatchObject({ exit_code: 0 });
      if (said.has("limited")) expect((await next.api.get(id)).memory).toBe(256 << 20);
      await next.api.remove(id);
    }
    next.kill("SIGTERM");
    expect((await next.ended).code).toBe(0);
    await lane.expectNothing();
  });
});
