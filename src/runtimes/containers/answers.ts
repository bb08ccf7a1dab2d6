import { z } from "zod";
import { WarrenError } from "../../contracts/errors.ts";

/** What is used of the engine's answers; everything else in them is left alone. */
export const ContainerState = z.object({
  Id: z.string(),
  State: z.object({
    Status: z.string(),
    Running: z.boolean().optional(),
    Paused: z.boolean().optional(),
    Pid: z.number().int().optional(),
    ExitCode: z.number().int().optional(),
    Error: z.string().optional(),
    OOMKilled: z.boolean().optional(),
  }),
  /** The id of what it is made of. */
  Image: z.string().nullish(),
  Mounts: z.array(z.object({ Type: z.string().nullish(), Destination: z.string() })).nullish(),
});
export type ContainerState = z.infer<typeof ContainerState>;

export const ContainerList = z.array(
  z.object({
    Id: z.string(),
    /** Docker writes a slash before each. */
    Names: z.array(z.string()).nullish(),
    Labels: z.record(z.string(), z.string()).nullish(),
  }),
);

export const ImageInspection = z.object({
  Id: z.string(),
  RepoTags: z.array(z.string()).nullish(),
  RepoDigests: z.array(z.string()).nullish(),
  /** Seconds in a list, RFC 3339 elsewhere. */
  Created: z.union([z.string(), z.number()]).optional(),
  Size: z.number().optional(),
  Architecture: z.string().nullish(),
  Variant: z.string().nullish(),
  Os: z.string().nullish(),
  RootFS: z.object({ Layers: z.array(z.string()).nullish() }).nullish(),
  Config: z
    .object({
      Env: z.array(z.string()).nullish(),
      WorkingDir: z.string().nullish(),
      User: z.string().nullish(),
      Entrypoint: z.array(z.string()).nullish(),
      Cmd: z.array(z.string()).nullish(),
      Labels: z.record(z.string(), z.string()).nullish(),
    })
    .nullish(),
});
export type ImageInspection = z.infer<typeof ImageInspection>;

export const ImageList = z.array(
  ImageInspection.extend({
    ParentId: z.string().nullish(),
    Labels: z.record(z.string(), z.string()).nullish(),
  }),
);
export type ImageList = z.infer<typeof ImageList>;

/** The layers of an image, the newest first. */
export const ImageHistory = z.array(z.object({ Size: z.number().optional() }));

export const Volume = z.object({
  Name: z.string(),
  Labels: z.record(z.string(), z.string()).nullish(),
  CreatedAt: z.string().nullish(),
  Mountpoint: z.string().nullish(),
});
export type Volume = z.infer<typeof Volume>;

export const VolumeList = z.object({ Volumes: z.array(Volume).nullish() });

export const DiskUsage = z.object({
  Volumes: z
    .array(z.object({ Name: z.string(), UsageData: z.object({ Size: z.number() }).nullish() }))
    .nullish(),
});

export const EngineInfo = z.object({ DockerRootDir: z.string().nullish() });

export const Stats = z.object({
  pids_stats: z.object({ current: z.number().optional() }).optional(),
  cpu_stats: z.object({ cpu_usage: z.object({ total_usage: z.number().optional() }).optional() }).optional(),
  memory_stats: z
    .object({
      usage: z.number().optional(),
      limit: z.number().optional(),
      stats: z.record(z.string(), z.number()).nullish(),
    })
    .optional(),
  networks: z
    .record(z.string(), z.object({ rx_bytes: z.number().optional(), tx_bytes: z.number().optional() }))
    .nullish(),
  blkio_stats: z
    .object({
      io_service_bytes_recursive: z.array(z.object({ op: z.string(), value: z.number() })).nullish(),
    })
    .nullish(),
});

/** @throws WarrenError `runtime_failed` */
export function readAnswer<S extends z.ZodType>(schema: S, answer: unknown): z.output<S> {
  const parsed = schema.safeParse(answer);
  if (parsed.success) return parsed.data;
  throw new WarrenError("runtime_failed", "the container engine's answer is not what its API promises", {
    cause: parsed.error,
  });
}
