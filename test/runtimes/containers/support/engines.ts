import { randomBytes } from "node:crypto";
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Runtime } from "../../../../src/contracts/runtime.ts";
import { silentLogger } from "../../../../src/lib/log.ts";
import { type ApiClient, createApiClient } from "../../../../src/runtimes/containers/api-client.ts";
import { openDockerRuntime } from "../../../../src/runtimes/docker/runtime.ts";
import { openPodmanRuntime } from "../../../../src/runtimes/podman/runtime.ts";
import { openService } from "../../../../src/runtimes/podman/service.ts";
import { startDockerd } from "../../docker/support/dockerd.ts";
import { makeStorage } from "../../podman/support/storage.ts";

/** A container engine that nobody else uses, and a driver of it. */
export interface TestEngine {
  runtime: Runtime;
  ownerId: string;
  dir: string;
  /** Of the engine, beside the driver's own. */
  client: ApiClient;
  /** What its user would run. */
  cli(...args: string[]): Promise<string>;
  /** Lets the engine itself speak to a registry on loopback without TLS; Docker does so anyway. */
  allowPlain(port: number): void;
  /** A process in whose network namespace it is, where that isn't ours. */
  netnsOf?: number;
  close(): Promise<void>;
}

export interface EngineKind {
  name: "podman" | "docker";
  isPodman: boolean;
  open(): Promise<TestEngine>;
}

export const engines: EngineKind[] = [
  { name: "podman", isPodman: true, open: openPodman },
  { name: "docker", isPodman: false, open: openDocker },
];

const newOwner = () => `t${randomBytes(5).toString("hex")}`;

async function openPodman(): Promise<TestEngine> {
  const storage = makeStorage({ image: false });
  const dir = mkdtempSync(join(tmpdir(), "wpod-"));
  const ownerId = newOwner();
  const registries = join(dir, "registries.conf");
  writeFileSync(registries, "");
  const before = process.env.CONTAINERS_REGISTRIES_CONF;
  process.env.CONTAINERS_REGISTRIES_CONF = registries;
  const runtime = await openPodmanRuntime({ stateDir: dir, ownerId, log: silentLogger });
  const service = await openService({ dir: join(dir, "other"), env: process.env as Record<string, string> });
  const client = createApiClient(service.endpoint);
  return {
    runtime,
    ownerId,
    dir,
    client,
    cli: async (...args) => storage.podman(...args),
    allowPlain: (port) =>
      appendFileSync(registries, `[[registry]]\nlocation = "127.0.0.1:${port}"\ninsecure = true\n`),
    async close() {
      await runtime.close();
      client.close();
      await service.close();
      rmSync(dir, { recursive: true, force: true });
      storage.remove();
      if (before === undefined) delete process.env.CONTAINERS_REGISTRIES_CONF;
      else process.env.CONTAINERS_REGISTRIES_CONF = before;
    },
  };
}

async function openDocker(): Promise<TestEngine> {
  const daemon = await startDockerd();
  const dir = mkdtempSync(join(tmpdir(), "wdocker-"));
  const ownerId = newOwner();
  const endpoint = { kind: "unix", path: daemon.socket } as const;
  const runtime = await openDockerRuntime({
    stateDir: dir,
    ownerId,
    log: silentLogger,
    docker: { host: daemon.url, configDir: "/nonexistent" },
  });
  const client = createApiClient(endpoint);
  return {
    runtime,
    ownerId,
    dir,
    client,
    cli: daemon.cli,
    allowPlain: () => {},
    netnsOf: daemon.pid,
    async close() {
      await runtime.close();
      client.close();
      await daemon.end();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}
