import { afterAll, afterEach, beforeAll, expect } from "vitest";
import type { SandboxApi } from "../contracts/api.ts";
import type { CreateSandbox } from "../contracts/sandbox.ts";
import { testApiBinds } from "./api-binds.ts";
import { testApiCredentials } from "./api-credentials.ts";
import { testApiExec } from "./api-exec.ts";
import { testApiExecStream } from "./api-exec-stream.ts";
import { testApiFiles } from "./api-files.ts";
import { type ApiAbility, type ApiContext, type ApiFixture, apiFixture } from "./api-fixture.ts";
import { testApiImages } from "./api-images.ts";
import { testApiLifecycle } from "./api-lifecycle.ts";
import { testApiLogs } from "./api-logs.ts";
import { testApiNetwork } from "./api-network.ts";
import { testApiPause } from "./api-pause.ts";
import { testApiPorts } from "./api-ports.ts";
import { testApiPrune } from "./api-prune.ts";
import { testApiReality } from "./api-reality.ts";
import { testApiSecrets } from "./api-secrets.ts";
import { testApiSnapshots } from "./api-snapshots.ts";
import { testApiSshAgent } from "./api-ssh-agent.ts";
import { testApiUpdate } from "./api-update.ts";
import { testApiVolumes } from "./api-volumes.ts";
import { defineSuite, type SuiteOptions } from "./suite.ts";

export interface ApiSuiteOptions extends SuiteOptions {
  /** What the runtime behind it can't do; tests of it are skipped by name, and that it is refused is tested. */
  lacks?: readonly ApiAbility[];
  /** Fields of every sandbox that the suite makes, such as `image` or `runtime`. The image needs a POSIX shell and perl. */
  defaults?: CreateSandbox;
  /**
   * A reference that can be pulled, such as of a registry on this machine, for tests that pull it and remove it. Without one
   * these are skipped by name.
   */
  pullable?: string;
  /** How to end a sandbox's first process from outside; default: SIGKILL to the pid, which must be of this host. */
  killGuest?: (pid: number) => void;
  /** How to make it hang; default: SIGSTOP to the pid. */
  freezeGuest?: (pid: number) => void;
}

/**
 * Tests of all that a client may notice, whichever way in. The subject must have no sandboxes of anybody else's: all that
 * it lists are removed after each test, and all snapshots and volumes.
 */
export function testApi(
  name: string,
  make: () => Promise<{ api: SandboxApi; close: () => Promise<void> }>,
  options: ApiSuiteOptions = {},
): void {
  defineSuite(`api ${name}`, options, (test) => {
    let made: Awaited<ReturnType<typeof make>>;
    let fixture: ApiFixture;
    beforeAll(async () => {
      made = await make();
      fixture = apiFixture(made.api, options.defaults ?? {}, options.lacks ?? []);
    });
    afterEach(() => fixture.clean());
    afterAll(() => made.close());
    const context: ApiContext = {
      test,
      fixture: () => fixture,
      killGuest: options.killGuest ?? ((pid) => void process.kill(pid, "SIGKILL")),
      pullable: options.pullable,
      unless: (...abilities) => abilities.find((ability) => options.lacks?.includes(ability)),
      freezeGuest: options.freezeGuest ?? ((pid) => void process.kill(pid, "SIGSTOP")),
    };

    test("is well, and says what it is", async () => {
      const { api } = fixture;
      const health = await api.health();
      expect(health).toMatchObject({ status: "ok" });
      const version = await api.version();
      expect(version.version).toMatch(/^\d+\.\d+\.\d+/);
      expect(version.features).toEqual(health.features);
      const dens = ["network_mode", "start", "file_stat", "sandbox_ip", "writable_rootfs"];
      expect(version.features).toEqual(expect.arrayContaining(dens));
      expect(await api.systemStats()).toEqual({
        total_sandboxes: 0,
        running_sandboxes: 0,
        stopped_sandboxes: 0,
        total_snapshots: 0,
      });
      expect(await api.list()).toEqual([]);
    });
    testApiLifecycle(context);
    testApiReality(context);
    testApiLogs(context);
    testApiPause(context);
    testApiUpdate(context);
    testApiPrune(context);
    testApiImages(context);
    testApiVolumes(context);
    testApiBinds(context);
    testApiExec(context);
    testApiExecStream(context);
    testApiFiles(context);
    testApiNetwork(context);
    testApiSecrets(context);
    testApiSnapshots(context);
    testApiCredentials(context);
    testApiSshAgent(context);
    testApiPorts(context);
  });
}
