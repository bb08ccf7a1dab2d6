import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Step } from "../../../src/contracts/steps.ts";
import {
  cgroupOf,
  type EngineProcess,
  type EngineSettings,
  membersOf,
  type Point,
  removeCgroup,
  startEngine,
} from "./engine-process.ts";
import { unwanted } from "./host.ts";
import { checkInvariant, eventually } from "./invariant.ts";
import { endProcess, endSandboxes } from "./reboot.ts";
import { type Scenario, type ScenarioName, scenarios } from "./scenarios.ts";
import { World } from "./world.ts";

const COMPLETE = "the scenario came to its end";

/** One state directory and the engines that come one after the other on it. */
export class Lane implements AsyncDisposable {
  readonly world = new World();
  /** Not below $TMPDIR: a Unix socket's path may take 107 bytes. */
  readonly dir = mkdtempSync("/tmp/warren-crash-");
  readonly stateDir = join(this.dir, "state");
  readonly group = cgroupOf(`warren-test-${randomBytes(5).toString("hex")}`);
  /** What is undone when all processes have ended. */
  readonly atEnd: (() => void)[] = [];
  readonly #program: string;
  readonly #ociProgram: "crun" | "runc";
  #engine: EngineProcess | undefined;

  constructor(program: string, ociProgram: "crun" | "runc" = "crun") {
    this.#program = program;
    this.#ociProgram = ociProgram;
    mkdirSync(this.stateDir, { mode: 0o700 });
  }

  /** Starts an engine that kills itself at the point, if there is one. */
  start(point?: Point | "trace", logFd?: number): EngineProcess {
    const settings: EngineSettings = {
      config: {
        stateDir: this.stateDir,
        apiKeys: [],
        http2: false,
        allowedOrigins: [],
        allowBinds: false,
        allowHostNetwork: false,
        publishAddresses: [],
        runtime: "oci",
        runtimes: ["oci"],
        ociProgram: this.#ociProgram,
        docker: {},
        strict: false,
        unlimited: false,
        logLevel: "info",
      },
      engine: { logFileBytes: 2048 },
      group: this.group,
      point,
    };
    this.#engine = startEngine(this.#program, settings, logFd);
    return this.#engine;
  }

  /** An engine that recovers from whatever happened, and finds the invariant to hold. */
  async recover(point?: Point | "trace"): Promise<EngineProcess> {
    const engine = this.start(point);
    await engine.ready;
    await checkInvariant(this.world, engine, this);
    return engine;
  }

  /** The engine that runs: only one can use the state directory. */
  async #running(): Promise<EngineProcess> {
    return this.#engine?.isAlive() ? this.#engine : await this.recover();
  }

  /** The steps of a scenario whose engine is killed at its end. */
  async trace(name: ScenarioName): Promise<Step[]> {
    const engine = await this.#running();
    await this.clean(engine);
    await engine.arm("trace");
    await scenarios[name](this.world.actions(engine.api), { engine, dir: this.dir, stateDir: this.stateDir });
    await this.kill(engine);
    await this.recover();
    return engine.trace;
  }

  /** Kills the engine at the point of a scenario, and lets the next one recover. False when it never gets there. */
  async crash(name: ScenarioName, point: Point): Promise<boolean> {
    const engine = await this.#running();
    await this.clean(engine);
    await engine.arm(point);
    const scenario: Scenario = scenarios[name];
    const end = scenario(this.world.actions(engine.api), {
      engine,
      dir: this.dir,
      stateDir: this.stateDir,
    }).then(
      () => COMPLETE,
      (error: unknown) => `the scenario failed: ${error}`,
    );
    const first = await Promise.race([end, engine.ended.then(() => undefined)]);
    // The scenario may see the connection break before we see the process end.
    if (first !== undefined) await Promise.race([engine.ended, delay(2000)]);
    if (first === COMPLETE && engine.isAlive()) return false;
    await this.#expectKilled(engine, point, first);
    await end;
    await this.recover();
    return true;
  }

  /** Kills the engine at a point of its opening. */
  async crashOpening(point: Point): Promise<void> {
    const engine = this.start(point);
    const first = await Promise.race([
      engine.ended.then(() => undefined),
      // What it does in the background may come after it serves.
      engine.ready.then(() => delay(10_000, "it opened")),
    ]);
    await this.#expectKilled(engine, point, first);
  }

  async #expectKilled(
    engine: EngineProcess,
    { step, nth }: Point,
    before: string | undefined,
  ): Promise<void> {
    const ended = await Promise.race([engine.ended, delay(3000)]);
    if (ended?.signal === "SIGKILL") return;
    throw new Error(
      `step ${step} (${nth}) was never reached: ${before}; ${JSON.stringify(ended)}\n${engine.said()}`,
    );
  }

  /** Removes all sandboxes, as a client. */
  async clean(engine: EngineProcess): Promise<void> {
    const actions = this.world.actions(engine.api);
    await Promise.all(this.world.names().map((name) => actions.remove(name)));
    for (const { id } of await engine.api.snapshots.list()) await engine.api.snapshots.remove(id);
    this.world.boxes.clear();
    this.world.files.clear();
  }

  async kill(engine: EngineProcess): Promise<void> {
    engine.kill("SIGKILL");
    await engine.ended;
  }

  /** Ends the engine as a service manager does, without sandboxes, and expects that nothing is left of any of them. */
  async finish(): Promise<void> {
    const engine = await this.#running();
    await this.clean(engine);
    engine.kill("SIGTERM");
    const { code } = await engine.ended;
    const { stateDir, group } = this;
    const left = await eventually(() => unwanted({ stateDir, group, known: [], alive: [] }));
    if (code !== 0 || left.length > 0) throw new Error(`${code}: ${left.join("\n")}\n${engine.said()}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#engine) await this.kill(this.#engine);
    // Of a test that failed.
    await endSandboxes(this.stateDir);
    for (const pid of membersOf(this.group)) endProcess(pid);
    await eventually(() => membersOf(this.group).map(String));
    removeCgroup(this.group);
    for (const undo of this.atEnd) undo();
    rmSync(this.dir, { recursive: true, force: true });
  }
}
