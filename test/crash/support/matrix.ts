import { expect } from "vitest";
import { type Step, steps } from "../../../src/contracts/steps.ts";
import type { Point } from "./engine-process.ts";
import type { Lane } from "./lane.ts";
import type { ScenarioName } from "./scenarios.ts";

/** `WARREN_LONG=1`: each time that a step is reached, and not only the first. */
const isLong = process.env.WARREN_LONG === "1";
export const TIMEOUT_MS = isLong ? 60 * 60_000 : 240_000;

/** Where a step is reached: in what a client does, or in an engine that opens: the first one, any, or one after a reboot. */
export type Place =
  | ScenarioName
  | "first opening"
  | "opening"
  | "opening after a reboot"
  | "containers"
  | "building";

/** For each step the place where the short form kills at it. The type asks for a line for each new one. */
export const places: Record<Step, Place> = {
  "owner.drafted": "first opening",
  "owner.named": "first opening",
  "oci.guest-copied": "first opening",
  "oci.claimed-ids": "first opening",
  "launcher.own.sent": "first opening",
  "launcher.own.answered": "first opening",
  "image.host-built": "first opening",
  "image.host-made": "first opening",

  "open.locked": "opening",
  "oci.laid-out": "opening",
  "oci.recorded-boot": "opening",
  "oci.swept": "opening",
  "oci.adopted": "opening",
  "open.migrated": "opening",
  "open.reconciled": "opening",
  "open.swept": "opening",
  "open.listening": "opening",
  "oci.probe-made": "opening",
  "oci.probe-started": "opening",
  "oci.probe-finished": "opening",
  "oci.forgot-boot": "opening after a reboot",

  "stored.creating": "life",
  "oci.made-directory": "life",
  "oci.filled-directory": "life",
  "oci.created": "life",
  "oci.wrote-bundle": "life",
  "launcher.start.sent": "life",
  "launcher.start.answered": "life",
  "oci.greeted": "life",
  "oci.started": "life",
  "stored.running": "life",
  "log.begun": "life",
  "log.written": "life",
  "log.replaced": "life",
  "write.begun": "life",
  "write.done": "life",
  "exec.begun": "life",
  "exec.spawned": "life",
  "exec.ended": "life",
  "oci.rewrote-spec": "life",
  "oci.limited": "life",
  "stored.paused": "life",
  "oci.froze": "life",
  "oci.thawed": "life",
  "stored.stopping": "life",
  "oci.asked-to-end": "life",
  "launcher.kill.sent": "life",
  "launcher.kill.answered": "life",
  "oci.ended-guest": "life",
  "oci.deleted-container": "life",
  "oci.cleared": "life",
  "stored.stopped": "life",
  "stored.starting": "life",
  "stored.removing": "life",
  "oci.trashed": "life",
  "launcher.rmtree.sent": "life",
  "launcher.rmtree.answered": "life",
  "log.removed": "life",
  "stored.deleted": "life",

  // test/runtimes/podman/crash.test.ts
  "container.swept": "containers",
  "container.made-directory": "containers",
  "container.created": "containers",
  "container.cleared-socket": "containers",
  "container.started": "containers",
  "container.greeted": "containers",
  "container.froze": "containers",
  "container.thawed": "containers",
  "container.rewrote-spec": "containers",
  "container.changed": "containers",
  "container.asked-to-end": "containers",
  "container.killed": "containers",
  "container.removed": "containers",
  "container.removed-directory": "containers",
  "container.held": "containers",
  "container.committed": "containers",
  "container.kept": "containers",
  "container.snapshotted": "containers",
  "container.snapshot-removed": "containers",

  "stored.error": "failure",
  "launcher.cgroupKill.sent": "unrecorded",
  "launcher.cgroupKill.answered": "unrecorded",

  "launcher.run.sent": "tar",
  "launcher.run.answered": "tar",
  "image.tar-begun": "tar",
  "image.tar-unpacked": "tar",
  "image.tar-made": "tar",
  "image.oci-begun": "oci",
  "image.oci-copied": "oci",
  "image.oci-unpacked": "oci",
  "image.oci-made": "oci",
  "image.oci-named": "oci",

  "volume.begun": "volumes",
  "volume.made": "volumes",
  "launcher.checkOutside.sent": "volumes",
  "launcher.checkOutside.answered": "volumes",

  "snapshot.creating": "snapshots",
  "snapshot.taken": "snapshots",
  "snapshot.ready": "snapshots",
  "snapshot.removing": "snapshots",
  "snapshot.dropped": "snapshots",
  "snapshot.deleted": "snapshots",
  "snapshot.begun": "snapshots",
  "snapshot.froze": "snapshots",
  "snapshot.thawed": "snapshots",
  "snapshot.unmarked": "snapshots",
  "snapshot.named": "snapshots",
  "snapshot.made": "snapshots",
  "snapshot.unlisted": "snapshots",
  "launcher.copy.sent": "snapshots",
  "launcher.copy.answered": "snapshots",

  "secret.key-made": "secrets",
  "secret.authority-made": "secrets",
  "secret.sealed": "secrets",
  "secret.removed": "secrets",

  "oci.tried-network": "network",
  "oci.changed-rules": "network",

  "image.build-begun": "building",
  "image.build-built": "building",
  "image.unnamed": "building",

  "close.begun": "close",
  "close.idle": "close",
  "oci.idle": "close",
  "oci.released-ids": "close",
  "oci.closed": "close",
  "close.released": "close",
};

export const at = (place: Place): Step[] => steps.filter((step) => places[step] === place);

/** Kills engines at the steps of a scenario, one after the other; each next one has to recover. */
export async function crashEverywhere(lane: Lane, name: ScenarioName): Promise<void> {
  for (const point of await pointsOf(lane, name)) {
    const isReached = await lane.crash(name, point);
    // How often a step comes may depend on what an earlier engine left.
    if (point.nth === 1) expect(isReached, `${point.step} is reached`).toBe(true);
  }
}

/** In the short form the steps that have their place here, once each; in the long form all that are there. */
async function pointsOf(lane: Lane, name: ScenarioName): Promise<Point[]> {
  if (!isLong) return at(name).map((step) => ({ step, nth: 1 }));
  const counts = new Map<Step, number>();
  for (const step of await lane.trace(name)) counts.set(step, (counts.get(step) ?? 0) + 1);
  return [...counts].flatMap(([step, count]) =>
    Array.from({ length: count }, (_, index) => ({ step, nth: index + 1 })),
  );
}
