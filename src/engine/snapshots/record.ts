import { z } from "zod";
import type { SnapshotInfo } from "../../contracts/snapshots.ts";
import { StoredImage, StoredSpec } from "../../contracts/stored-spec.ts";
import { dropAbsent, mountInfos } from "../info.ts";
import { SandboxRecord } from "../record.ts";

/** All that a sandbox was besides its files: what it was asked to be, and what has changed since. No value of a secret is here. */
export const SnapshotSettings = SandboxRecord.pick({
  request: true,
  network: true,
  ports: true,
  secrets: true,
  credentials: true,
}).extend({ spec: StoredSpec });
export type SnapshotSettings = z.infer<typeof SnapshotSettings>;

export const SnapshotRecord = z.object({
  // It becomes part of file names.
  id: z.string().regex(/^snap-[a-z][a-z2-7]{15}$/, "not an id of a snapshot"),
  sandboxId: z.string().regex(/^[a-z][a-z2-7]{15}$/, "not an id of a sandbox"),
  name: z.string(),
  runtime: z.string(),
  /** What is not `ready` is half made or half removed: nobody is shown it, and the next engine removes it. */
  state: z.enum(["creating", "ready", "removing"]),
  /** Milliseconds since 1970. */
  createdAt: z.number().int(),
  sizeBytes: z.number().int().nonnegative(),
  /** What a sandbox is made of; there when it is ready. */
  image: StoredImage.optional(),
  settings: SnapshotSettings,
  /** Why it can't be restored. */
  error: z.string().optional(),
});
export type SnapshotRecord = z.infer<typeof SnapshotRecord>;

export function settingsOf(record: SandboxRecord): SnapshotSettings | undefined {
  return record.spec && SnapshotSettings.parse(record);
}

export function snapshotInfo(record: SnapshotRecord): SnapshotInfo {
  const { request, spec, network, ports, secrets, credentials } = record.settings;
  const some = <T>(list: T[] | undefined) => (list?.length ? list : undefined);
  return dropAbsent({
    id: record.id,
    sandbox_id: record.sandboxId,
    name: record.name,
    image_id: record.image?.id ?? "",
    created_at: new Date(record.createdAt).toISOString(),
    size: record.sizeBytes,
    runtime: record.runtime,
    image: request.image,
    network_mode: spec.network,
    network,
    mounts: some(mountInfos(spec.mounts)),
    ports: some(ports?.map(({ error: _, ...port }) => port)),
    secrets: some(secrets),
    credentials: some(credentials),
    ssh_agent: request.ssh_agent,
    error: record.error,
  });
}
