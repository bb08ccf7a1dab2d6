import { WarrenError } from "../../contracts/errors.ts";
import type { Runtime } from "../../contracts/runtime.ts";
import type { RestoreSnapshot } from "../../contracts/snapshots.ts";
import { type Admitted, admit } from "../admission.ts";
import type { EngineConfig } from "../config.ts";
import type { SnapshotRecord } from "./record.ts";

/**
 * Decides whether a snapshot's sandbox can be again what it was. It is asked for as a new one would be, so that what can't be
 * enforced any more is refused; and it then gets what it had, not what the request for it would mean today.
 * @throws WarrenError `unsupported`, `invalid_request`, `image_invalid` when its files are not whole
 */
export function readmit(
  snapshot: SnapshotRecord,
  { name, labels, timeout }: RestoreSnapshot,
  runtime: Runtime,
  config: EngineConfig,
): Admitted {
  const { image } = snapshot;
  if (snapshot.error !== undefined || image === undefined) {
    throw new WarrenError(
      "image_invalid",
      `snapshot ${snapshot.id} can't be restored: ${snapshot.error ?? "it was never finished"}`,
      {
        hint: `remove it: warren snapshot rm ${snapshot.id}`,
      },
    );
  }
  const { spec, network, ports = [], secrets = [], credentials = [] } = snapshot.settings;
  const request = {
    ...without(snapshot.settings.request, "name", "network_policy"),
    ...(name === undefined ? {} : { name }),
    ...(labels === undefined ? {} : { labels }),
    ...(timeout === undefined ? {} : { timeout }),
  };
  const admitted = admit(
    {
      ...without(request, "network", "writable_rootfs"),
      runtime: runtime.name,
      isolation: spec.isolation,
      readonly_fs: spec.readonlyRoot,
      network_mode: spec.network,
      ...(network ? { network } : {}),
      ports: ports.map((port) => without(port, "error")),
      // Limits that it hasn't are none, whatever the defaults are by now.
      unlimited: true,
      memory: spec.limits.memoryBytes,
      cpu: spec.limits.cpuNano,
      pid_limit: spec.limits.pids,
      ...(spec.limits.memoryHighBytes === undefined ? {} : { memory_high: spec.limits.memoryHighBytes }),
    },
    runtime,
    config,
  );
  return {
    ...admitted,
    request,
    limits: spec.limits,
    tmpfs: spec.tmpfs,
    mounts: spec.mounts,
    origin: { snapshot: snapshot.id, image, secrets, credentials },
  };
}

function without<T extends object, K extends keyof T>(object: T, ...keys: K[]): Omit<T, K> {
  const kept = Object.entries(object).filter(([key]) => !keys.includes(key as K));
  return Object.fromEntries(kept) as Omit<T, K>;
}
