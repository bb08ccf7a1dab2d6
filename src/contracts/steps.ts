/**
 * Every moment in the work of an engine at which a crash would find the world different from the moment before: each is
 * told right after something was stored, made, sent or ended. Tests kill an engine at each of them (test/crash/).
 * A new effect gets a new name here; what is not listed can't be told, and what is listed and never reached fails a test.
 */
export const steps = [
  // The state directory
  "owner.drafted",
  "owner.named",
  "open.locked",
  "open.migrated",
  "open.reconciled",
  "open.swept",
  "open.listening",
  "close.begun",
  "close.idle",
  "close.released",

  // A record was written with this state
  "stored.creating",
  "stored.starting",
  "stored.running",
  "stored.paused",
  "stored.stopping",
  "stored.stopped",
  "stored.removing",
  "stored.error",
  "stored.deleted",

  // Inside of sandboxes
  "exec.begun",
  "exec.spawned",
  "exec.ended",
  "write.begun",
  "write.done",

  // Secrets
  "secret.key-made",
  "secret.authority-made",
  "secret.sealed",
  "secret.removed",

  // A snapshot's record was written with this state; its files are there, or gone
  "snapshot.creating",
  "snapshot.taken",
  "snapshot.ready",
  "snapshot.removing",
  "snapshot.dropped",
  "snapshot.deleted",

  // Logs of main commands
  "log.begun",
  "log.written",
  "log.replaced",
  "log.removed",

  // The oci runtime: opening and closing
  "oci.laid-out",
  "oci.guest-copied",
  "oci.forgot-boot",
  "oci.recorded-boot",
  "oci.swept",
  "oci.adopted",
  "oci.probe-made",
  "oci.probe-started",
  "oci.probe-finished",
  "oci.tried-network",
  "oci.idle",
  "oci.released-ids",
  "oci.closed",

  // The oci runtime: one sandbox
  "oci.made-directory",
  "oci.filled-directory",
  "oci.created",
  "oci.claimed-ids",
  "oci.wrote-bundle",
  "oci.greeted",
  "oci.started",
  "oci.asked-to-end",
  "oci.ended-guest",
  "oci.deleted-container",
  "oci.cleared",
  "oci.froze",
  "oci.thawed",
  "oci.rewrote-spec",
  "oci.limited",
  "oci.changed-rules",
  "oci.trashed",

  // The oci runtime: volumes
  "volume.begun",
  "volume.made",

  // The oci runtime: snapshots
  "snapshot.begun",
  "snapshot.froze",
  "snapshot.thawed",
  "snapshot.unmarked",
  "snapshot.named",
  "snapshot.made",
  "snapshot.unlisted",

  // The oci runtime: images
  "image.host-built",
  "image.host-made",
  "image.tar-begun",
  "image.tar-unpacked",
  "image.tar-made",
  "image.oci-begun",
  "image.oci-copied",
  "image.oci-unpacked",
  "image.oci-made",
  "image.oci-named",
  "image.build-begun",
  "image.build-built",
  "image.unnamed",

  // Runtimes whose sandboxes are containers of an engine
  "container.swept",
  "container.made-directory",
  "container.created",
  "container.cleared-socket",
  "container.started",
  "container.greeted",
  "container.froze",
  "container.thawed",
  "container.rewrote-spec",
  "container.changed",
  "container.asked-to-end",
  "container.killed",
  "container.removed",
  "container.removed-directory",
  "container.held",
  "container.committed",
  "container.kept",
  "container.snapshotted",
  "container.snapshot-removed",

  // Requests to the launcher
  "launcher.run.sent",
  "launcher.run.answered",
  "launcher.start.sent",
  "launcher.start.answered",
  "launcher.kill.sent",
  "launcher.kill.answered",
  "launcher.cgroupKill.sent",
  "launcher.cgroupKill.answered",
  "launcher.rmtree.sent",
  "launcher.rmtree.answered",
  "launcher.own.sent",
  "launcher.own.answered",
  "launcher.checkOutside.sent",
  "launcher.checkOutside.answered",
  "launcher.copy.sent",
  "launcher.copy.answered",
] as const;
export type Step = (typeof steps)[number];

/** Told each step as it is done; must neither wait nor throw. */
export type OnStep = (step: Step) => void;

export const noStep: OnStep = () => {};
