import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { silentLogger } from "../../../src/lib/log.ts";
import { createApiClient } from "../../../src/runtimes/containers/api-client.ts";
import { endFormerBuilds, openBuildService } from "../../../src/runtimes/podman/build-service.ts";
import { openPodmanRuntime } from "../../../src/runtimes/podman/runtime.ts";
import { openService } from "../../../src/runtimes/podman/service.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { piecesOf } from "../../../src/testing/tar.ts";
import { eventually } from "../../../src/testing/wait.ts";
import { contextOf, scratch, sleeping } from "../containers/support/contexts.ts";
import { makeStorage, type TestStorage } from "./support/storage.ts";

let storage: TestStorage;
let dir: string;
beforeAll(() => {
  storage = makeStorage({ image: false });
  dir = mkdtempSync(join(tmpdir(), "wbuild-"));
});
afterAll(() => {
  storage.remove();
  rmSync(dir, { recursive: true });
});

describe("a service for a build", () => {
  it("is ended by the next engine, with what the build runs, when an engine was killed", async () => {
    const env = process.env as Record<string, string>;
    const main = await openService({ dir: join(dir, "main"), env });
    const client = createApiClient(main.endpoint);
    try {
      const seconds = 100_000 + Math.floor(Math.random() * 900_000);
      const service = await openBuildService({ dir, env, main: client });
      const context = contextOf(`${scratch}RUN busybox sleep ${seconds}`);
      const answer = await service.client.stream({
        method: "POST",
        path: "/build",
        query: { t: "localhost/x:1", networkmode: "NetworkDisabled", forcerm: true },
        body: piecesOf(context),
        timeoutMs: 0,
      });
      answer.on("error", () => {}).resume();
      await eventually("the step", () => sleeping(seconds).length > 0, 60_000);
      await endFormerBuilds(dir);
      await eventually("the step's end", () => sleeping(seconds).length === 0);
      expect(readdirSync(dir)).toEqual(["main"]);
      expect(storage.podman("ps", "--all", "--external", "--quiet")).toBe("");
      await service.close();
    } finally {
      client.close();
      await main.close();
    }
  });

  it("is refused to whoever is strict, where what builds has published escapes", async () => {
    const stateDir = join(dir, "strict");
    const runtime = await openPodmanRuntime({ stateDir, ownerId: "t1", log: silentLogger, strict: true });
    try {
      const { findings } = await runtime.probe();
      const isWeak = findings.some(({ message }) => /^buildah .* has published escapes/.test(message));
      const building = runtime.images.store?.build({
        tag: "my/tools:1",
        context: piecesOf(contextOf(`${scratch}CMD ["x"]`)),
      });
      if (isWeak) {
        const error = await expectFailure(building as Promise<unknown>, "runtime_unavailable");
        expect(error.message).toContain("--strict");
      } else {
        await building;
        await runtime.images.store?.remove("my/tools:1");
      }
    } finally {
      await runtime.close();
      rmSync(stateDir, { recursive: true });
    }
  });
});
