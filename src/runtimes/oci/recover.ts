import { rm } from "node:fs/promises";
import { join } from "node:path";
import type { OnStep } from "../../contracts/steps.ts";
import { liveGuest, mappedBase } from "../common/guest-process.ts";
import { isBuildId } from "./build-box.ts";
import { recordBoot, wasRebooted } from "./host-facts.ts";
import type { IdRanges } from "./id-ranges.ts";
import type { Layout } from "./layout.ts";
import type { Lifecycle } from "./lifecycle.ts";
import { isProbeId } from "./probe.ts";
import { ociPrograms } from "./programs.ts";
import type { SandboxStore } from "./sandbox-store.ts";
import type { Trash } from "./trash.ts";

export interface Remains {
  layout: Layout;
  lifecycle: Lifecycle;
  store: SandboxStore;
  trash: Trash;
  images: { sweep(): Promise<void> };
  volumes: { sweep(): Promise<void> };
  snapshots: { recover(): Promise<void> };
  ids: IdRanges;
  onStep: OnStep;
}

/** Brings in order what an earlier engine left. Gives the sandboxes that run and are reached by a relay. */
export async function recover(remains: Remains): Promise<Set<string>> {
  const { layout, lifecycle, store, trash, images, volumes, snapshots, ids, onStep } = remains;
  const bootFile = join(layout.root, "boot");
  if (await wasRebooted(bootFile)) {
    for (const name of ociPrograms) await rm(layout.runtimeRoot(name), { recursive: true, force: true });
    for (const id of await store.list()) {
      const { guestPid, uplinkPid, runtimePid, socket } = layout.sandbox(id);
      for (const path of [guestPid, uplinkPid, runtimePid, socket]) await rm(path, { force: true });
    }
    onStep("oci.forgot-boot");
  }
  await recordBoot(bootFile);
  onStep("oci.recorded-boot");
  await trash.sweep();
  await snapshots.recover();
  await images.sweep();
  await volumes.sweep();
  onStep("oci.swept");
  const relayed = new Set<string>();
  for (const id of await store.list()) {
    if (isProbeId(id) || isBuildId(id)) {
      // An earlier engine was killed while it probed, or built an image.
      await lifecycle.finish(id);
      for (const dir of await store.dirs(id)) await trash.discard(dir);
      continue;
    }
    const guest = await liveGuest(layout.sandbox(id).guestPid);
    const base = guest && (await mappedBase(guest.pid));
    if (base) await ids.adopt(id, base);
    if (guest && (await store.read(id).catch(() => undefined))?.spec.isolation === "gvisor") relayed.add(id);
    onStep("oci.adopted");
  }
  return relayed;
}
