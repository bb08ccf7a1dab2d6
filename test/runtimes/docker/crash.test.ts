import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Step } from "../../../src/contracts/steps.ts";
import {
  buildEngine,
  cgroupOf,
  type EngineProcess,
  type EngineSettings,
  removeCgroup,
  startEngine,
} from "../../crash/support/engine-process.ts";
import { type DockerRig, IMAGE, openDockerRig } from "./support/open.ts";

describe("an engine that is killed while it makes a sandbox in Docker", () => {
  let rig: DockerRig;
  let program = "";
  let stateDir = "";
  const group = cgroupOf(`warren-docker-crash-${process.pid}`);
  beforeAll(async () => {
    [rig, program] = await Promise.all([openDockerRig(), buildEngine()]);
    stateDir = mkdtempSync(join(tmpdir(), "wdockerk-"));
  });
  afterAll(async () => {
    rmSync(stateDir, { recursive: true });
    removeCgroup(group);
    await rig.close();
  });

  const start = (step?: Step): EngineProcess => {
    const settings: EngineSettings = {
      config: {
        stateDir,
        apiKeys: [],
        http2: false,
        allowedOrigins: [],
        allowBinds: false,
        allowHostNetwork: false,
        publishAddresses: [],
        runtime: "docker",
        runtimes: ["docker"],
        docker: { host: rig.daemon.url },
        strict: false,
        unlimited: false,
        logLevel: "info",
      },
      engine: {},
      group,
      point: step && { step, nth: 1 },
    };
    return startEngine(program, settings);
  };
  const containers = () => rig.daemon.cli("ps", "-a", "--format", "{{.Names}}");

  it.each(["container.made-directory", "container.created", "container.started"] as const)(
    "at %s leaves nothing once the next has started",
    async (step) => {
      const killed = start(step);
      await killed.ready;
      await expect(killed.api.create({ image: IMAGE })).rejects.toThrow();
      expect(await killed.ended).toMatchObject({ signal: "SIGKILL" });
      const found = await containers();
      expect(found === "").toBe(step === "container.made-directory");
      const next = start();
      await next.ready;
      expect(await next.api.list()).toEqual([]);
      expect(await containers()).toBe("");
      expect(readdirSync(join(stateDir, "docker/sandboxes"))).toEqual([]);
      const { id } = await next.api.create({ image: IMAGE });
      const { exit_code, stdout } = await next.api.exec(id, { cmd: ["echo", "fine"] });
      expect([exit_code, stdout]).toEqual([0, "fine\n"]);
      next.kill("SIGKILL");
      await next.ended;
      // What was running is adopted.
      const last = start();
      await last.ready;
      expect(await last.api.get(id)).toMatchObject({ status: "running", runtime: "docker" });
      await last.api.remove(id);
      expect(await containers()).toBe("");
      last.kill("SIGTERM");
      expect(await last.ended).toMatchObject({ code: 0 });
    },
    60_000,
  );
});
