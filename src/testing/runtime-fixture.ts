import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import type { Runtime, RuntimeSpec } from "../contracts/runtime.ts";
import type { Isolation } from "../contracts/sandbox.ts";
import { createGuestClient } from "../guest/client.ts";
import type { GuestClient } from "../guest/types.ts";
import { noLimits } from "./guest-tools.ts";
import type { DefineTest } from "./suite.ts";

/** What a test of a runtime uses; made anew for each suite, emptied after each test. */
export interface RuntimeFixture {
  readonly runtime: Runtime;
  /** A spec of a sandbox that is not made yet. It is removed after the test. */
  spec(patch?: Partial<RuntimeSpec>): Promise<RuntimeSpec>;
  /** A sandbox that runs. */
  box(patch?: Partial<RuntimeSpec>): Promise<Box>;
  guest(id: string): GuestClient;
  /** Removes what the test has made. */
  clean(): Promise<void>;
}

export type Ability = "memory" | "cpu" | "pids" | "pause" | "readonlyRoot" | "tmpfs" | "directory" | "users";

export interface RuntimeContext {
  test: DefineTest;
  fixture: () => RuntimeFixture;
  /** The first of these that the runtime lacks. */
  unless: (...abilities: Ability[]) => Ability | undefined;
}

export interface Box {
  id: string;
  pid: number;
  spec: RuntimeSpec;
  guest: GuestClient;
}

export function runtimeFixture(
  runtime: Runtime,
  { image, isolation }: { image: string; isolation: Isolation },
): RuntimeFixture {
  const made = new Set<string>();
  const guest = (id: string) => createGuestClient(() => runtime.connect(id));
  const spec = async (patch: Partial<RuntimeSpec> = {}): Promise<RuntimeSpec> => {
    const id = newId();
    made.add(id);
    const prepared = patch.image ?? (await runtime.images.ensure(image));
    return {
      id,
      image: prepared,
      env: {},
      workdir: "/",
      hostname: id,
      labels: {},
      network: "none",
      isolation,
      readonlyRoot: false,
      tmpfs: [],
      mounts: [],
      limits: noLimits,
      ...patch,
    };
  };
  return {
    runtime,
    spec,
    guest,
    async box(patch) {
      const wanted = await spec(patch);
      await runtime.create(wanted);
      const { pid } = await runtime.start(wanted.id);
      return { id: wanted.id, pid, spec: wanted, guest: guest(wanted.id) };
    },
    async clean() {
      const ids = [...made];
      made.clear();
      await Promise.all(ids.map((id) => runtime.remove(id)));
    },
  };
}

/** Of the form that the engine's ids have. */
export function newId(): string {
  return `t${randomBytes(10)
    .toString("hex")
    .replace(/[^a-z2-7]/g, "q")
    .slice(0, 15)}`;
}

/** True while a process of the host has this pid and has not ended. */
export function processLives(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    return !/^[ZX]/.test(stat.slice(stat.lastIndexOf(")") + 2));
  } catch {
    return false;
  }
}
