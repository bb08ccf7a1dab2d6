import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import type { ImageStore, Runtime, RuntimeSpec, SnapshotStore, VolumeStore } from "../contracts/runtime.ts";
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
  /** The runtime's volumes. Fails where there are none. */
  volumes(): VolumeStore;
  /** A name that nobody has. A volume of this name is removed after the test. */
  volumeName(): string;
  /** The runtime's images by name. Fails where there are none. */
  images(): ImageStore;
  /** A name that nobody has. An image of this name is removed after the test. */
  imageName(): string;
  /** The runtime's snapshots. Fails where there are none. */
  snapshots(): SnapshotStore;
  /** An id that no snapshot has. A snapshot of this id is removed after the test. */
  snapshotId(): string;
  /** Removes what the test has made. */
  clean(): Promise<void>;
}

export type Ability =
  | "memory"
  | "cpu"
  | "pids"
  | "pause"
  | "readonlyRoot"
  | "tmpfs"
  | "directory"
  | "users"
  | "volumes"
  | "binds"
  | "imageStore"
  | "snapshots";

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
  const volumesMade = new Set<string>();
  const imagesMade = new Set<string>();
  const snapshotsMade = new Set<string>();
  const guest = (id: string) => createGuestClient(() => runtime.connect(id));
  const spec = async (patch: Partial<RuntimeSpec> = {}): Promise<RuntimeSpec> => {
    const id = newId();
    made.add(id);
    return plainSpec(id, patch.image ?? (await runtime.images.ensure(image)), isolation, patch);
  };
  return {
    runtime,
    spec,
    guest,
    volumes() {
      if (!runtime.volumes) throw new Error(`the runtime ${runtime.name} has no volumes`);
      return runtime.volumes;
    },
    volumeName() {
      const name = `wtest-${randomBytes(6).toString("hex")}`;
      volumesMade.add(name);
      return name;
    },
    images() {
      if (!runtime.images.store) throw new Error(`the runtime ${runtime.name} has no images by name`);
      return runtime.images.store;
    },
    imageName() {
      const name = `wtest-${randomBytes(6).toString("hex")}/tiny:1`;
      imagesMade.add(name);
      return name;
    },
    snapshots() {
      if (!runtime.snapshots) throw new Error(`the runtime ${runtime.name} has no snapshots`);
      return runtime.snapshots;
    },
    snapshotId() {
      const id = `snap-${newId()}`;
      snapshotsMade.add(id);
      return id;
    },
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
      const snapshots = [...snapshotsMade];
      snapshotsMade.clear();
      await Promise.all(snapshots.map((id) => runtime.snapshots?.remove(id)));
      const names = [...volumesMade];
      volumesMade.clear();
      await Promise.all(names.map((name) => runtime.volumes?.remove(name)));
      // Those that were built last first: they may stand on others.
      const tags = [...imagesMade].reverse();
      imagesMade.clear();
      for (const tag of tags) await runtime.images.store?.remove(tag);
    },
  };
}

/** Of a sandbox with nothing special, beside what `patch` says. */
export function plainSpec(
  id: string,
  image: RuntimeSpec["image"],
  isolation: Isolation,
  patch: Partial<RuntimeSpec> = {},
): RuntimeSpec {
  return {
    id,
    image,
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
