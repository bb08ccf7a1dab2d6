import { z } from "zod";

/** den's `TmpfsMount`. Size as `64m` or `1g`; options from rw, ro, exec, noexec (always nosuid and nodev). */
export const TmpfsMount = z
  .object({
    path: z.string(),
    size: z.string().regex(/^[1-9]\d{0,12}[kmg]?$/i, "a size is a number with k, m or g"),
    options: z.string().max(256).optional(),
  })
  .meta({ id: "TmpfsMount" });
export type TmpfsMount = z.infer<typeof TmpfsMount>;

export const VolumeMount = z
  .object({ name: z.string(), mount_path: z.string(), read_only: z.boolean().optional() })
  .meta({ id: "VolumeMount" });
export type VolumeMount = z.infer<typeof VolumeMount>;

/** A directory or file of the engine's machine. */
export const BindMount = z
  .object({
    source: z.string().meta({ description: "Absolute path on the engine's machine" }),
    mount_path: z.string(),
    read_only: z.boolean().optional(),
  })
  .meta({ id: "BindMount" });
export type BindMount = z.infer<typeof BindMount>;

/** A volume or bind that a sandbox has. */
export const MountInfo = z
  .object({
    type: z.enum(["volume", "bind"]),
    source: z.string().meta({ description: "The volume's name, or a path on the engine's machine" }),
    mount_path: z.string(),
    read_only: z.boolean(),
  })
  .meta({ id: "MountInfo" });
export type MountInfo = z.infer<typeof MountInfo>;

export const S3SyncConfig = z
  .object({
    endpoint: z.string().optional(),
    bucket: z.string(),
    prefix: z.string().optional(),
    region: z.string().optional(),
    access_key: z.string().optional(),
    secret_key: z.string().optional(),
    mode: z.enum(["hooks", "fuse", "on_demand"]),
    mount_path: z.string().optional(),
    sync_path: z.string().optional(),
  })
  .meta({ id: "S3SyncConfig" });
export type S3SyncConfig = z.infer<typeof S3SyncConfig>;

/** den's `StorageConfig`, and binds. */
export const StorageConfig = z
  .object({
    volumes: z.array(VolumeMount).max(64).optional(),
    tmpfs: z.array(TmpfsMount).max(64).optional(),
    binds: z.array(BindMount).max(64).optional(),
    s3: S3SyncConfig.optional(),
  })
  .meta({ id: "StorageConfig" });
export type StorageConfig = z.infer<typeof StorageConfig>;
