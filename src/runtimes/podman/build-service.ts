import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { readProcess, signalProcess } from "../../lib/processes.ts";
import { readAnswer } from "../containers/answers.ts";
import { type ApiClient, createApiClient } from "../containers/api-client.ts";
import { engineRootDir } from "../containers/engine-root.ts";
import type { BuildService } from "../containers/images/build.ts";
import { endService, formerService, openService } from "./service.ts";

/** Short, for the path of a socket has not many bytes. */
const PREFIX = "b-";
const END_TIMEOUT_MS = 15_000;
const POLL_MS = 100;

const Containers = z.array(z.object({ Id: z.string() })).nullable();

export interface BuildServiceOptions {
  /** Absolute; ours alone. */
  dir: string;
  /** Of Podman. */
  env: Readonly<Record<string, string>>;
  /** Of the service that sandboxes run on. */
  main: ApiClient;
}

/**
 * Podman ends a build whose connection is closed at its next step only: what a step runs goes on. With a service for each build,
 * its processes are known, and a command is ended as `podman build` ends it for ^C. A service of another storage than ours has
 * to do without.
 */
export async function openBuildService({ dir, env, main }: BuildServiceOptions): Promise<BuildService> {
  const home = join(dir, `${PREFIX}${randomBytes(3).toString("hex")}`);
  const service = await openService({ dir: home, env });
  const client = createApiClient(service.endpoint);
  const close = async () => {
    client.close();
    await service.close();
    await rm(home, { recursive: true, force: true });
  };
  try {
    if ((await engineRootDir(client)) !== (await engineRootDir(main))) {
      await close();
      return sharedService(main);
    }
    const known = await workingContainers(client);
    return { client, end: () => endBuild(service.process?.pid, client, known), close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Of a Podman whose processes are not to be seen: a step that runs goes on to its end. */
export function sharedService(client: ApiClient): BuildService {
  return { client, end: async () => {}, close: async () => {} };
}

/** Ends the builds of an engine that was killed. */
export async function endFormerBuilds(dir: string): Promise<void> {
  for (const name of await readdir(dir)) {
    if (!name.startsWith(PREFIX)) continue;
    const home = join(dir, name);
    const former = await formerService(home);
    if (former) {
      const client = createApiClient({ kind: "unix", path: join(home, "api") });
      await endBuild(former.pid, client).finally(() => client.close());
      await endService(former);
    }
    await rm(home, { recursive: true, force: true });
  }
}

async function endBuild(
  pid: number | undefined,
  client: ApiClient,
  known?: ReadonlySet<string>,
): Promise<void> {
  const deadline = performance.now() + END_TIMEOUT_MS;
  // Between two steps there is nothing for a moment.
  for (let quiet = 0; quiet < 2 && performance.now() < deadline; await sleep(POLL_MS)) {
    const runs = pid === undefined ? [] : descendants(pid).filter(isBuildRun);
    for (const run of runs) {
      const found = readProcess(run);
      if (found) signalProcess(found, "SIGTERM");
    }
    // Podman can't list them while one of them goes.
    const left = await workingContainers(client).catch(() => undefined);
    const isQuiet =
      runs.length === 0 && left !== undefined && [...left].every((id) => known?.has(id) ?? true);
    quiet = isQuiet ? quiet + 1 : 0;
  }
}

/** What builds make their steps in, and all other containers. */
async function workingContainers(client: ApiClient): Promise<ReadonlySet<string>> {
  const path = "/libpod/containers/json";
  const answer = await client.json({ path, query: { all: true, external: true } });
  return new Set(readAnswer(Containers, answer)?.map(({ Id }) => Id));
}

function descendants(pid: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync("/proc")) {
    const found = /^\d+$/.test(name) ? readProcess(Number(name)) : undefined;
    if (found) children.set(found.parent, [...(children.get(found.parent) ?? []), found.pid]);
  }
  const all = [pid];
  for (const parent of all) all.push(...(children.get(parent) ?? []));
  return all.slice(1);
}

/** The program that runs a step's command, and ends it when it is asked to end itself. */
function isBuildRun(pid: number): boolean {
  try {
    return /^buildah-[a-z-]*runtime\0/.test(readFileSync(`/proc/${pid}/cmdline`, "latin1"));
  } catch {
    return false; // it has ended
  }
}
