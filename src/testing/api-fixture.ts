import type { SandboxApi } from "../contracts/api.ts";
import type { ExecRequest, ExecResult } from "../contracts/exec.ts";
import type { CreateSandbox, SandboxInfo } from "../contracts/sandbox.ts";
import type { DefineTest } from "./suite.ts";

/** What a test of the API uses; the sandboxes, snapshots and volumes that it makes are removed after it. */
export interface ApiFixture {
  readonly api: SandboxApi;
  box(request?: CreateSandbox): Promise<SandboxInfo>;
  /** Runs `sh -c` to its end; `args` become $1 and so on. */
  shell(id: string, script: string, request?: ShellRequest): Promise<ExecResult>;
  clean(): Promise<void>;
}

export type ShellRequest = Partial<ExecRequest> & { args?: readonly string[] };

export type ApiAbility = "pause" | "limits" | "images" | "volumes" | "binds" | "snapshots";

export interface ApiContext {
  test: DefineTest;
  /** The first of these that the subject lacks. */
  unless: (...abilities: ApiAbility[]) => ApiAbility | undefined;
  fixture: () => ApiFixture;
  /** An image that can be pulled, and that nobody else has here. */
  pullable: string | undefined;
  /** Ends the sandbox's first process from outside, as the kernel would. */
  killGuest: (pid: number) => void;
  /** Makes it hang. */
  freezeGuest: (pid: number) => void;
}

export function apiFixture(
  api: SandboxApi,
  defaults: CreateSandbox,
  lacks: readonly ApiAbility[],
): ApiFixture {
  return {
    api,
    box: (request = {}) => api.create({ ...defaults, ...request }),
    shell: (id, script, { args = [], ...request } = {}) =>
      api.exec(id, { ...request, cmd: ["sh", "-c", script, "sh", ...args] }),
    async clean() {
      // Also those that a failing test made without knowing their ids.
      await Promise.all(
        (await api.list()).map((sandbox) =>
          api.remove(sandbox.id).catch((error: { code?: unknown }) => {
            if (error.code !== "sandbox_not_found") throw error;
          }),
        ),
      );
      for (const { id } of await api.snapshots.list()) await api.snapshots.remove(id);
      if (lacks.includes("volumes")) return;
      for (const { name, runtime } of await api.volumes.list()) await api.volumes.remove(name, { runtime });
    },
  };
}
